//! The page in headless Chromium: a chat answered, two models side by side, a refused key. Without
//! Chromium on the machine it says so and passes; `.ci/run` installs it. Pictures of what was seen lie
//! in the target folder, under `tmp/page-*.png`.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{limits, masked_server, server_with};
use recast_serve::{Server, Settings};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A page in a browser, driven over the DevTools protocol: JSON with a zero byte behind it, through pipes.
struct Browser {
    process: Child,
    calls_to: ChildStdin,
    replies: Receiver<Value>,
    session: Option<String>,
    calls: u64,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Browser {
    fn start() -> Option<Self> {
        let profile = tempfile::tempdir().unwrap();
        let name = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
            let version = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
            version.is_ok_and(|status| status.success())
        })?;
        // It reads calls from descriptor 3 and writes replies to 4, which the shell makes of what it was given.
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", name])
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(["--window-size=1100,800", "about:blank"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let calls_to = process.stdin.take().unwrap();
        let from = BufReader::new(process.stdout.take().unwrap());
        let (sender, replies) = mpsc::channel();
        std::thread::spawn(move || {
            for message in from.split(0).map_while(Result::ok) {
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
            }
        });
        Some(Self { process, calls_to, replies, session: None, calls: 0, _profile: profile })
    }

    fn try_call(&mut self, method: &str, params: &Value) -> Result<Value, String> {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.clone().into();
        }
        self.calls_to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let reply = self.replies.recv_timeout(PATIENCE).expect("the browser answers");
            if reply["id"] == self.calls {
                return if reply["error"].is_null() { Ok(reply["result"].clone()) } else { Err(format!("{method}: {reply}")) };
            }
        }
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.try_call(method, params).unwrap()
    }

    fn open(&mut self, address: &str) {
        self.session = None;
        let target = self.call("Target.createTarget", &json!({"url": address}))["targetId"].clone();
        let session = self.call("Target.attachToTarget", &json!({"targetId": target, "flatten": true}))["sessionId"].clone();
        self.session = Some(session.as_str().unwrap().to_owned());
        // Until the page is there, there may be nothing to evaluate in, now and then again.
        let there =
            json!({"expression": "document.readyState === 'complete' && typeof panes === 'object'", "returnByValue": true});
        let started = Instant::now();
        while self.try_call("Runtime.evaluate", &there).map_or(true, |reply| reply["result"]["value"] != true) {
            assert!(started.elapsed() < PATIENCE, "the page does not begin");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn value(&mut self, expression: &str) -> Value {
        let reply = self.call("Runtime.evaluate", &json!({"expression": expression, "returnByValue": true}));
        assert!(reply["exceptionDetails"].is_null(), "{expression}: {reply}");
        reply["result"]["value"].clone()
    }

    /// Waits until the expression is true on the page.
    fn until(&mut self, expression: &str) {
        let started = Instant::now();
        while self.value(&format!("Boolean({expression})")) != true {
            assert!(
                started.elapsed() < PATIENCE,
                "never came: {expression}; the page: {}",
                self.value("document.body.innerText")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn say(&mut self, text: &str) {
        self.value(&format!("at('text').value = {}; at('send').click()", json!(text)));
        self.until("!running && document.querySelectorAll('.waiting').length === 0");
    }

    fn picture(&mut self, name: &str) {
        use base64::Engine;
        let data = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        let bytes = base64::prelude::BASE64_STANDARD.decode(data["data"].as_str().unwrap()).unwrap();
        std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png")), bytes).unwrap();
    }
}

/// Serves in the background on a free port until the process ends.
fn serve(settings: Settings) -> String {
    serve_it(move || server_with(settings, limits()))
}

fn serve_it(server: impl FnOnce() -> Server + Send + 'static) -> String {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let (_stop, told) = tokio::sync::mpsc::channel(1);
            server().run(listener, told).await.unwrap();
        });
    });
    format!("http://{}/", receiver.recv().unwrap())
}

#[test]
fn the_page_in_a_browser() {
    let Some(mut browser) = Browser::start() else {
        eprintln!("SKIPPED: the page; no Chromium on this machine");
        return;
    };
    let settings = Settings { context: Some(4096), ..Settings::default() };
    browser.open(&serve(settings.clone()));
    browser.until("panes[0].select.options.length === 3");
    browser.value("at('tokens').value = 12; at('temperature').value = 0");
    // Long enough for its state to be kept: an answer at random is rarely cut into tokens again as it was written.
    browser.say("Once there was a girl who lived by the sea. Tell me what she saw there one day.");
    assert_eq!(
        browser.value("[...document.querySelectorAll('section:not([hidden]) li')].map((li) => li.className).join()"),
        "user,assistant"
    );
    let figures = browser.value("document.querySelector('.assistant .figures').textContent");
    assert!(figures.as_str().unwrap().contains("tokens/s") && figures.as_str().unwrap().contains("state"), "{figures}");
    // The second turn goes on from what was read.
    browser.say("And now");
    let figures = browser.value("[...document.querySelectorAll('.assistant .figures')].pop().textContent");
    assert!(figures.as_str().unwrap().contains("read before"), "{figures}");
    browser.picture("chat");

    browser.value("at('both').click()");
    browser.say("Both of you");
    let shown = browser.value("[...document.querySelectorAll('section')].map((s) => s.querySelector('select').value + ' ' + s.querySelectorAll('.figures').length).join()");
    assert_eq!(shown, "teacher 1,student 1");
    browser.picture("side-by-side");
    assert_eq!(browser.value("document.documentElement.scrollWidth <= window.innerWidth"), true, "nothing sticks out");

    browser.open(&serve(Settings { api_keys: vec!["secret".into()], ..settings }));
    browser.until("!at('problem').hidden");
    let problem = browser.value("at('problem').textContent");
    assert!(problem.as_str().unwrap().starts_with("401") && problem.as_str().unwrap().contains("Settings"), "{problem}");
    browser.picture("refused-key");
    browser.value("at('key').value = 'secret'; at('key').dispatchEvent(new Event('change'))");
    browser.until("at('problem').hidden && panes[0].select.options.length === 3");
    // A refused request is told in its place and leaves the conversation.
    browser.value("at('key').value = 'wrong'");
    browser.say("Hi");
    assert!(browser.value("document.querySelector('.bad').textContent").as_str().unwrap().starts_with("401"));
    assert_eq!(browser.value("panes[0].messages.length"), 0);
}

#[test]
fn a_text_settles_on_the_page_and_races() {
    let Some(mut browser) = Browser::start() else {
        eprintln!("SKIPPED: the page; no Chromium on this machine");
        return;
    };
    browser.open(&serve_it(masked_server));
    browser.until("panes[0].select.options.length === 3");
    browser.value("at('tokens').value = 60; at('temperature').value = 0; at('threshold').value = 0.05; at('both').click()");
    assert_eq!(browser.value("at('about').hidden"), false, "the legend is there with a model that denoises");
    // Slowed down, so that there is a middle to look at.
    // The page itself keeps watch: on a busy machine we might look too late.
    browser.value(
        "window.between = false; new MutationObserver(() => { \
         const count = (words) => document.querySelectorAll(words).length; \
         window.between ||= count('.turns .mask, .turns .ghost') > 3 && count('.turns .sure, .turns .fair, .turns .unsure') > 3; \
         }).observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true})",
    );
    browser.value("at('slow').value = 64; at('text').value = 'Once there was a girl who'; at('send').click()");
    browser.until("window.between");
    browser.picture("settling");
    assert_eq!(browser.value("document.documentElement.scrollWidth <= window.innerWidth"), true, "nothing sticks out");
    browser.value("at('stop').click()");
    browser.until("!running");
    browser.value("at('reset').click()");
    // A new chat in the middle of an answer begins with nothing: not with what was written of the old one.
    browser.value("at('text').value = 'Once there was a girl who'; at('send').click()");
    browser.until("panes[1].turns.querySelector('.assistant span')?.textContent.length > 1");
    browser.value("at('reset').click()");
    browser.until("!running");
    assert_eq!(browser.value("panes.map((pane) => pane.messages.length + pane.turns.children.length).join()"), "0,0");
    browser.value("at('slow').value = 1");
    browser.say("Once there was a girl who");
    assert_eq!(browser.value("document.querySelectorAll('.turns .mask, .turns .ghost').length"), 0);
    assert_eq!(browser.value("document.querySelectorAll('.clock.won').length"), 1);
    let clocks = browser.value("[...document.querySelectorAll('.clock')].map((c) => c.textContent).join(' | ')");
    assert!(clocks.as_str().unwrap().contains("60 tokens") && clocks.as_str().unwrap().contains(" s · "), "{clocks}");
    let figures = browser.value("document.querySelector('.figures').textContent");
    assert!(figures.as_str().unwrap().contains("runs of the model"), "{figures}");
    // What is seen is what was told.
    assert_eq!(browser.value("[...document.querySelectorAll('section:first-child .assistant .cell')].map((c) => c.textContent).join('') === panes[0].messages.at(-1).content"), true);
    browser.picture("settled");
    // However slow the playback is made, it ends where it is stopped.
    browser.value(
        "window.asked = () => performance.getEntriesByType('resource').filter((e) => e.name.endsWith('v1/completions')).length; \
         window.before = asked(); at('slow').options[3].value = '1000000'; at('slow').value = '1000000'; \
         at('text').value = 'Once there was a girl'; at('send').click()",
    );
    browser.until("asked() === before + 2");
    browser.value("at('stop').click()");
    browser.until("!running");
}
