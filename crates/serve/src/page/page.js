"use strict";
// A chat with one served model, or the same chat with two of them side by side. Keys stay in this
// page's memory.

const at = (id) => document.getElementById(id);
const panes = [];
let models = [];
let running = null;

function problem(words) {
  at("problem").textContent = words || "";
  at("problem").hidden = !words;
}

function headers() {
  const out = { "content-type": "application/json" };
  if (at("key").value) out.authorization = `Bearer ${at("key").value}`;
  return out;
}

/** What an answer that is no success says of itself. */
async function refusal(response) {
  let words = "";
  try {
    words = (await response.json()).error.message;
  } catch {
    words = response.statusText;
  }
  if (response.status === 401) words += ". Enter the API key under Settings.";
  return `${response.status}: ${words}`;
}

async function loadModels() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (!response.ok) throw new Error(await refusal(response));
    models = (await response.json()).data;
    problem("");
    panes.forEach((pane, index) => {
      const chosen = pane.select.value;
      pane.select.replaceChildren(...models.map((model) => new Option(model.id, model.id)));
      if (models.some((model) => model.id === chosen)) pane.select.value = chosen;
      else pane.select.selectedIndex = Math.min(index, models.length - 1);
    });
    chosen();
  } catch (error) {
    problem(error.message);
  }
}

/** Models without a chat template continue the text as it stands. */
const chats = (pane) => models.find((model) => model.id === pane.select.value)?.recast?.chat !== false;
const denoises = (pane) => Boolean(models.find((model) => model.id === pane.select.value)?.recast?.denoising);

/** Shows what only models that denoise need, where one is chosen. */
function chosen() {
  const any = panes.some((pane) => !pane.section.hidden && denoises(pane));
  for (const element of document.querySelectorAll(".denoise")) element.hidden = !any;
}

function addPane() {
  const part = at("pane").content.cloneNode(true);
  const pane = { section: part.querySelector("section"), select: part.querySelector("select"), turns: part.querySelector("ol"), messages: [] };
  pane.select.addEventListener("change", chosen);
  at("panes").append(part);
  panes.push(pane);
}

function turn(pane, role, text) {
  const item = document.createElement("li");
  item.className = role;
  item.textContent = text;
  pane.turns.append(item);
  item.scrollIntoView({ block: "nearest" });
  return item;
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let power = 0;
  while (count >= 1024 && power < units.length - 1) {
    count /= 1024;
    power += 1;
  }
  return `${count.toFixed(power ? 1 : 0)} ${units[power]}`;
}

function figures(item, said) {
  if (!said) return;
  const line = document.createElement("span");
  line.className = "figures";
  const parts = [];
  if (said.denoising) parts.push(`${said.denoising.forwards} runs of the model, ${said.denoising.tokens_per_forward.toFixed(1)} tokens a run`);
  if (said.decode_tokens_per_second) parts.push(`${said.decode_tokens_per_second.toFixed(1)} tokens/s`);
  if (said.time_to_first_token != null) parts.push(`first after ${(1000 * said.time_to_first_token).toFixed(0)} ms`);
  if (said.state_bytes != null) parts.push(`state ${bytes(said.state_bytes)}`);
  if (said.reused_tokens) parts.push(`${said.reused_tokens} tokens read before`);
  line.textContent = parts.join(" · ");
  item.append(line);
}

/** The objects of a stream of server-sent events. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const whole = held.split("\n\n");
    held = whole.pop();
    for (const event of whole) {
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

/** Waits so many milliseconds, or until the signal comes. */
const pause = (milliseconds, signal) => new Promise((resolve) => {
  const end = () => {
    clearTimeout(timer);
    signal.removeEventListener("abort", end);
    resolve();
  };
  const timer = setTimeout(end, milliseconds);
  signal.addEventListener("abort", end);
});

/**
 * What comes, no sooner than the clock of the page says: slowed down, every pane waits by the same
 * factor for what really came when. Yields [seconds, object].
 */
async function* onTheClock(response, started, factor, signal) {
  const queue = [];
  let wake = () => {};
  let over = false;
  let failed = null;
  (async () => {
    try {
      for await (const event of events(response)) {
        queue.push([(performance.now() - started) / 1000, event]);
        wake();
      }
    } catch (error) {
      failed = error;
    }
    over = true;
    wake();
  })();
  for (;;) {
    while (!queue.length && !over) await new Promise((resolve) => { wake = resolve; });
    if (failed) throw failed;
    if (!queue.length) return;
    const [seconds, event] = queue.shift();
    const wait = factor > 1 ? 1000 * seconds * factor - (performance.now() - started) : 0;
    if (wait > 0) await pause(wait, signal);
    // All of it may have come already, and only be waiting to be shown.
    signal.throwIfAborted();
    yield [seconds, event];
  }
}

/** Positions as they stand. */
class Canvas {
  constructor(item, positions) {
    this.cells = Array.from({ length: positions }, () => ({}));
    this.item = item;
    this.forwards = 0;
    this.reached = 0;
    this.draw();
  }

  take(step) {
    this.forwards = step.forwards;
    this.reached = step.window[1];
    while (this.cells.length < this.reached) this.cells.push({});
    for (const cell of this.cells) {
      cell.ghost = null;
      cell.fresh = false;
    }
    for (const { position, text, confidence } of step.ghosts) this.cells[position].ghost = { text, confidence };
    for (const { position, old, token, text, confidence } of step.changes) {
      this.cells[position] = token === null ? {} : { text, confidence, fresh: true, revised: old !== null };
    }
    this.draw();
  }

  get known() {
    return this.cells.filter((cell) => cell.text != null).length;
  }

  draw() {
    this.item.replaceChildren(...this.cells.map((cell, position) => {
      const element = document.createElement("span");
      const grade = (p) => (p < 0.3 ? "unsure" : p < 0.7 ? "fair" : "sure");
      if (cell.text != null) {
        element.className = `cell ${grade(cell.confidence)}${cell.fresh ? " new" : ""}${cell.revised ? " revised" : ""}`;
        element.textContent = cell.text;
        element.title = `${Math.round(100 * cell.confidence)} % sure`;
      } else if (cell.ghost) {
        element.className = "cell ghost";
        element.textContent = cell.ghost.text;
        element.title = `a guess, ${Math.round(100 * cell.ghost.confidence)} % sure`;
      } else {
        element.className = position < this.reached ? "cell mask" : "cell mask later";
      }
      return element;
    }));
  }
}

async function answer(pane, signal, started, race) {
  const item = turn(pane, "assistant", "");
  item.classList.add("waiting");
  const words = document.createElement("span");
  const clock = document.createElement("span");
  clock.className = "clock";
  item.append(words, clock);
  const canvas = denoises(pane) ? new Canvas(words, Number(at("tokens").value)) : null;
  const system = at("system").value.trim();
  // A new chat begins with another list: what still comes then belongs to none.
  const messages = pane.messages;
  let text = "";
  let said = null;
  let written = null;
  let pieces = 0;
  let last = 0;
  try {
    const asked = chats(pane)
      ? { messages: [...(system ? [{ role: "system", content: system }] : []), ...messages] }
      : { prompt: system + messages.map((message) => message.content).join("") };
    const response = await fetch(chats(pane) ? "v1/chat/completions" : "v1/completions", {
      method: "POST",
      headers: headers(),
      signal,
      body: JSON.stringify({
        model: pane.select.value,
        ...asked,
        temperature: Number(at("temperature").value),
        max_tokens: Number(at("tokens").value),
        stream: true,
        stream_options: { include_usage: true },
        ...(canvas ? { stream_revisions: true, denoising: { rule: { name: "threshold", at: Number(at("threshold").value) } } } : {}),
      }),
    });
    if (!response.ok) throw new Error(await refusal(response));
    for await (const [seconds, event] of onTheClock(response, started, Number(at("slow").value), signal)) {
      if (event.error) throw new Error(event.error.message);
      const piece = event.choices[0]?.delta?.content ?? event.choices[0]?.text ?? "";
      text += piece;
      if (canvas && event.recast?.step) canvas.take(event.recast.step);
      else if (!canvas) words.textContent = text;
      if (piece) pieces += 1;
      if (piece || event.recast?.step) last = seconds;
      if (event.recast && !event.recast.step) said = event.recast;
      written = event.usage?.completion_tokens ?? written;
      // Pieces of text are not quite tokens: some tokens are parts of a character.
      if (written != null) pieces = written;
      const shown = canvas ? `${canvas.known} tokens, ${canvas.forwards} ${canvas.forwards === 1 ? "run" : "runs"} of the model` : `${pieces} tokens, as many runs of the model`;
      if (canvas || race) clock.textContent = `${last.toFixed(2)} s · ${shown}`;
      item.scrollIntoView({ block: "nearest" });
    }
    // What is behind the end is no text.
    if (canvas) {
      canvas.cells = canvas.cells.slice(0, written ?? canvas.cells.length).map((cell) => ({ ...cell, ghost: null, fresh: false }));
      canvas.draw();
    }
    if (race && !race.won) {
      race.won = true;
      clock.classList.add("won");
      clock.textContent += " · first";
    }
    if (!canvas && !race) clock.remove();
    figures(item, said);
  } catch (error) {
    if (error.name !== "AbortError") {
      item.classList.add("bad");
      item.textContent = `${text}${text ? "\n" : ""}${error.message}`;
    }
  }
  item.classList.remove("waiting");
  // What got no answer is not part of the conversation.
  if (text) messages.push({ role: "assistant", content: text });
  else messages.pop();
}

async function send(event) {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text || running) return;
  problem("");
  at("text").value = "";
  running = new AbortController();
  at("send").disabled = true;
  at("stop").disabled = false;
  const shown = panes.filter((pane) => !pane.section.hidden);
  for (const pane of shown) {
    pane.messages.push({ role: "user", content: text });
    turn(pane, "user", text);
  }
  const started = performance.now();
  const race = shown.length > 1 ? { won: false } : null;
  await Promise.all(shown.map((pane) => answer(pane, running.signal, started, race)));
  running = null;
  at("send").disabled = false;
  at("stop").disabled = true;
  at("text").focus();
}

function reset() {
  running?.abort();
  for (const pane of panes) {
    pane.messages = [];
    pane.turns.replaceChildren();
  }
}

addPane();
addPane();
panes[1].section.hidden = true;
at("both").addEventListener("change", () => {
  panes[1].section.hidden = !at("both").checked;
  chosen();
  reset();
});
at("form").addEventListener("submit", send);
at("stop").addEventListener("click", () => running?.abort());
at("reset").addEventListener("click", reset);
at("key").addEventListener("change", loadModels);
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
});
loadModels();
