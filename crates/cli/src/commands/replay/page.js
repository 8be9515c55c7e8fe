"use strict";
// Plays a trace. State k is what stands there after k steps; state 0 is all masks, or noise.

const at = (id) => document.getElementById(id);
const { begin, steps, end } = JSON.parse(at("trace").textContent);
const pieces = { ...begin.tokens };
for (const step of steps) Object.assign(pieces, step.tokens);
const piece = (token) => (pieces[token] ?? "?").replaceAll("\n", "↵\n");
const grade = (p) => (p < 0.3 ? "unsure" : p < 0.7 ? "fair" : "sure");
const percent = (p) => `${Math.round(100 * p)} %`;
// Older traces count what was given as written.
const until = end ? end.positions ?? end.written : begin.positions;
const unknown = begin.noise === "uniform" ? "random" : "hidden";

/** Every state, worked out once: cells are {kind, token, p, since, was}. */
const states = [];
{
  let cells = Array.from({ length: begin.positions }, () => ({ kind: "mask" }));
  for (const [index, token] of begin.given) cells[index] = { kind: "given", token };
  states.push(cells);
  steps.forEach((step, k) => {
    cells = cells.map((cell) => (cell.kind === "ghost" ? { kind: "mask" } : cell));
    for (const [index, token, p] of step.ghosts) cells[index] = { kind: "ghost", token, p };
    for (const [index, old, token, p] of step.changes) {
      cells[index] = token === null ? { kind: "mask", was: old } : { kind: "fixed", token, p, since: k + 1, was: old };
    }
    states.push(cells);
  });
  // Behind the end of the text nothing was written that counts.
  states[states.length - 1] = cells.slice(0, until);
}
const last = states[states.length - 1];
const written = last.filter((cell) => cell.kind === "fixed").length;
let now = 0;
let timer = null;

function span(className, text, title) {
  const element = document.createElement("span");
  element.className = className;
  element.textContent = text;
  if (title) element.title = title;
  return element;
}

function cellElement(cell, index, window) {
  if (cell.kind === "given") return span("cell given", piece(cell.token), "given");
  if (cell.kind === "ghost") return span("cell ghost", piece(cell.token), `guessed, ${percent(cell.p)} sure`);
  if (cell.kind === "fixed") {
    const classes = ["cell", "fixed", grade(cell.p)];
    if (cell.since === now) classes.push("new");
    if (cell.was != null) classes.push("revised");
    return span(classes.join(" "), piece(cell.token), `${percent(cell.p)} sure, kept in step ${cell.since}`);
  }
  const later = window && (index < window[0] || index >= window[1]);
  return span(`cell mask${later ? " later" : ""}`, "", later ? `${unknown}; its turn comes later` : unknown);
}

function draw() {
  const cells = states[now];
  const window = (steps[now] ?? steps[now - 1])?.window;
  const parts = [span("prompt", begin.prompt), ...cells.map((cell, index) => cellElement(cell, index, window))];
  at("stage").replaceChildren(...parts);
  const known = cells.filter((cell) => cell.kind === "fixed" || cell.kind === "given").length;
  const step = steps[now - 1];
  const fresh = step ? step.changes.length : 0;
  at("status").textContent = now === 0
    ? `Before the first step: ${cells.length - known} ${unknown}`
    : `Step ${now} of ${steps.length} · ${fresh} kept now · ${known} of ${cells.length} known · the model ran ${step.forwards} times`;
  at("slider").value = now;
  at("slider").setAttribute("aria-valuetext", at("status").textContent);
  for (const id of ["first", "back"]) at(id).disabled = now === 0;
  at("next").disabled = now === steps.length;
  at("strip").replaceChildren(...cells.map((cell) => {
    const bar = span(cell.kind === "fixed" ? grade(cell.p) : cell.kind, "");
    const p = cell.kind === "given" ? 1 : cell.kind === "mask" ? 0.03 : cell.p;
    bar.style.height = `${Math.max(3, 100 * p)}%`;
    if (cell.token != null) bar.title = `${piece(cell.token)}: ${percent(p)}`;
    return bar;
  }));
  at("strip").setAttribute("aria-label", `${known} of ${cells.length} positions known`);
  for (const dot of at("map").querySelectorAll("circle")) dot.classList.toggle("on", Number(dot.dataset.since) <= now);
}

function go(step) {
  now = Math.min(Math.max(step, 0), steps.length);
  draw();
}

function pause() {
  clearInterval(timer);
  timer = null;
  at("play").textContent = "▶ Play";
  at("status").setAttribute("aria-live", "polite");
}

function play() {
  if (timer) return pause();
  if (now === steps.length) go(0);
  // A screen reader shall not be flooded.
  at("status").setAttribute("aria-live", "off");
  at("play").textContent = "Pause";
  timer = setInterval(() => {
    go(now + 1);
    if (now === steps.length) pause();
  }, Number(at("speed").value));
}

function map() {
  const svg = at("map");
  const [width, height, left, bottom] = [900, 260, 60, 34];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const make = (name, attributes, text) => {
    const element = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text) element.textContent = text;
    svg.append(element);
    return element;
  };
  const x = (index) => left + ((index + 0.5) / Math.max(last.length, 1)) * (width - left - 14);
  const y = (step) => 14 + ((step - 0.5) / Math.max(steps.length, 1)) * (height - bottom - 20);
  make("line", { x1: x(0), y1: y(1), x2: x(last.length - 1), y2: y(steps.length) });
  make("text", { x: 8, y: 20 }, "first");
  make("text", { x: 8, y: height - bottom - 4 }, "last");
  make("text", { x: left, y: height - 10 }, "beginning of the text");
  make("text", { x: width - 14, y: height - 10, "text-anchor": "end" }, "end of the text");
  last.forEach((cell, index) => {
    if (cell.kind !== "fixed") return;
    const dot = make("circle", { cx: x(index), cy: y(cell.since), r: last.length > 150 ? 3 : 5 });
    dot.dataset.since = cell.since;
    const title = document.createElementNS(svg.namespaceURI, "title");
    title.textContent = `${piece(cell.token)} in step ${cell.since}`;
    dot.append(title);
  });
  svg.setAttribute("aria-label", "Order of commits: position in the text from left to right, step from top to bottom");
}

function order() {
  at("order").replaceChildren(span("", begin.prompt), ...last.map((cell) => {
    const element = span("", cell.token == null ? "░" : piece(cell.token), cell.since ? `step ${cell.since}` : "given");
    if (cell.since) {
      const share = steps.length > 1 ? (cell.since - 1) / (steps.length - 1) : 0;
      const light = 32 + 58 * share;
      element.style.background = `hsl(215 75% ${light}%)`;
      element.style.color = light > 58 ? "#111" : "#fff";
    }
    return element;
  }));
}

function facts() {
  const rule = Object.entries(begin.settings.rule ?? {}).map(([key, value]) => (key === "name" ? value : `${key} ${JSON.stringify(value)}`)).join(", ");
  const forwards = end?.forwards ?? steps.at(-1)?.forwards ?? 0;
  const revised = steps.reduce((sum, step) => sum + step.changes.filter((change) => change[1] !== null).length, 0);
  const rows = [
    ["Model", begin.model],
    ["Pieces of words written", written],
    ["Times the model ran", `${forwards}${end?.refreshes ? `, ${end.refreshes} of them to read what was finished` : ""}`],
    ["Pieces a run", forwards ? (written / forwards).toFixed(2) : "none"],
    ["Changed its mind", `${revised} times`],
    ...(end ? [["Time", `${end.seconds.toFixed(2)} s, ${(written / Math.max(end.seconds, 1e-9)).toFixed(0)} pieces a second`]] : [["End", "the record is cut off"]]),
    ["Rule for keeping", rule || "unknown"],
  ];
  at("facts").replaceChildren(...rows.flatMap(([name, value]) => {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = name;
    dd.textContent = value;
    return [dt, dd];
  }));
}

at("slider").max = steps.length;
at("slider").addEventListener("input", () => { pause(); go(Number(at("slider").value)); });
at("first").addEventListener("click", () => { pause(); go(0); });
at("back").addEventListener("click", () => { pause(); go(now - 1); });
at("next").addEventListener("click", () => { pause(); go(now + 1); });
at("play").addEventListener("click", play);
at("speed").addEventListener("change", () => { if (timer) { pause(); play(); } });
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches?.("select, input, button")) {
    if (!(event.target.matches?.("button") && event.key.startsWith("Arrow"))) return;
  }
  const keys = { " ": play, ArrowRight: () => { pause(); go(now + 1); }, ArrowLeft: () => { pause(); go(now - 1); }, Home: () => { pause(); go(0); }, End: () => { pause(); go(steps.length); } };
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
});
at("legend-given").hidden = begin.given.length === 0;
at("legend-revised").hidden = !steps.some((step) => step.changes.some((change) => change[1] !== null));
map();
order();
facts();
const asked = Number(new URLSearchParams(location.hash.slice(1)).get("step"));
go(asked || 0);
if (!asked && !matchMedia("(prefers-reduced-motion: reduce)").matches) play();
