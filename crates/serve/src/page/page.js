"use strict";
// A chat with one served model, or the same chat with two of them side by side. Keys stay in this
// page's memory.

const at = (id) => document.getElementById(id);
const panes = [];
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
    const models = (await response.json()).data.filter((model) => model.recast?.chat !== false);
    problem(models.length ? "" : "None of the served models has a chat template.");
    panes.forEach((pane, index) => {
      const chosen = pane.select.value;
      pane.select.replaceChildren(...models.map((model) => new Option(model.id, model.id)));
      if (models.some((model) => model.id === chosen)) pane.select.value = chosen;
      else pane.select.selectedIndex = Math.min(index, models.length - 1);
    });
  } catch (error) {
    problem(error.message);
  }
}

function addPane() {
  const part = at("pane").content.cloneNode(true);
  const pane = { section: part.querySelector("section"), select: part.querySelector("select"), turns: part.querySelector("ol"), messages: [] };
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

async function answer(pane, signal) {
  const item = turn(pane, "assistant", "");
  item.classList.add("waiting");
  const system = at("system").value.trim();
  let text = "";
  let said = null;
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers(),
      signal,
      body: JSON.stringify({
        model: pane.select.value,
        messages: [...(system ? [{ role: "system", content: system }] : []), ...pane.messages],
        temperature: Number(at("temperature").value),
        max_tokens: Number(at("tokens").value),
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    if (!response.ok) throw new Error(await refusal(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      text += event.choices[0]?.delta?.content ?? "";
      item.textContent = text;
      said = event.recast ?? said;
      item.scrollIntoView({ block: "nearest" });
    }
    figures(item, said);
  } catch (error) {
    if (error.name !== "AbortError") {
      item.classList.add("bad");
      item.textContent = `${text}${text ? "\n" : ""}${error.message}`;
    }
  }
  item.classList.remove("waiting");
  // What got no answer is not part of the conversation.
  if (text) pane.messages.push({ role: "assistant", content: text });
  else pane.messages.pop();
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
  await Promise.all(shown.map((pane) => answer(pane, running.signal)));
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
