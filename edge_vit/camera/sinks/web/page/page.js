"use strict";
// Asks for the figures twice a second and draws them. All text goes in as text, never as markup.

const STAGES = ["receive", "wait", "preprocess", "queue", "infer", "finish"];
const MEANS = {
  receive: "from the sensor to us, decoded", wait: "in the slot of the newest frame", preprocess: "resized and cropped",
  queue: "ready, the model still busy", infer: "the model's run", finish: "answers made of its output", latency: "from capture to answer",
};
const RUNNING = new Set(["running"]);
let shown = 0;          // which source's picture
let watched = "";       // the address of the stream that is shown
let failures = 0;
const HISTORY = 240;    // points of two minutes
const past = { fps: [], latency: [], temperature: [], power: [] };

const $ = (id) => document.getElementById(id);
const whole = (n) => Math.round(n).toLocaleString("en");
const put = (id, text) => { const node = $(id); if (node.textContent !== text) node.textContent = text; };

function ms(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function energy(joules) {
  return joules < 1 ? `${(joules * 1000).toFixed(0)} mJ` : `${joules.toPrecision(3)} J`;
}

function span(seconds) {
  const s = Math.floor(seconds), d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
  if (d) return `${d} d ${h} h`;
  if (h) return `${h} h ${m} min`;
  return m ? `${m} min ${s % 60} s` : `${s} s`;
}

function make(tag, cls, text) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  if (text !== undefined) node.textContent = text;
  return node;
}

function svg(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function drawHead(summary) {
  put("model", summary.model);
  document.title = `${summary.model} · edge-vit`;
  const threads = `${summary.threads} thread${summary.threads === 1 ? "" : "s"}`;
  const batch = summary.batch_size > 1 ? ` · batch ${summary.batch_size}` : "";
  put("conditions", `${summary.precision} · ${summary.backend} · ${threads}${batch}`);
  const states = summary.sources.map((source) => source.state);
  const state = states.find((one) => !RUNNING.has(one)) || states[0] || "waiting";
  $("pill").dataset.state = state;
  put("pill", state);
  put("uptime", `for ${span(summary.seconds)}`);
}

function drawTabs(names) {
  const tabs = $("tabs");
  tabs.hidden = names.length < 2;
  while (tabs.children.length > names.length) tabs.lastChild.remove();
  names.forEach((name, place) => {
    if (!tabs.children[place]) {
      const button = make("button");
      button.type = "button";
      button.addEventListener("click", () => { shown = place; });
      tabs.append(button);
    }
    tabs.children[place].textContent = name;
    tabs.children[place].setAttribute("aria-pressed", String(place === shown));
  });
}

function watch(address) {
  if (watched === address) return;
  watched = address;
  const picture = $("picture");
  picture.hidden = address === "";
  if (address) picture.src = address; else picture.removeAttribute("src");
  $("no-picture").hidden = address !== "";
}

function drawView(names, answer) {
  drawTabs(names);
  watch(answer ? `/stream.mjpg?source=${shown}&n=${failures}` : "");
  if (!answer) return;
  put("source", answer.source);
  put("frame", `${answer.width} × ${answer.height} · frame ${whole(answer.number)} · answered after ${ms(answer.latency_ms)} ms`);
  document.documentElement.style.setProperty("--shape", `${answer.width} / ${answer.height}`);
}

// The first class; of masks the largest with their share, of objects how many there are of each class.
function bestOf(list) {
  if (!list.length) return "no object";
  if (!list[0].box && list[0].score === undefined)
    return list.slice(0, 2).map((one) => `${one.label}\u00a0${(one.share * 100).toFixed(0)}\u00a0%`).join(", ");
  if (!list[0].box) return list[0].label;
  const counts = new Map();
  for (const one of list) counts.set(one.label, (counts.get(one.label) || 0) + 1);
  return [...counts].slice(0, 3).map(([label, count]) => `${count} × ${label}`).join(", ");
}

// Three digits; what is very small or large by its power of ten.
function figure(value) {
  const size = Math.abs(value);
  return value && (size < 0.001 || size >= 1e6) ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

function drawAnswer(answer) {
  if (!answer) return;
  const list = answer.smoothed || answer.answers;
  const raw = new Map(answer.answers.map((one) => [one.index, one.score]));
  const scores = answer.smoothed_scores || answer.scores;
  if (scores) {
    put("best", scores.map((one) => `${one.label} ${Number(one.value.toPrecision(4))}`).join(", "));
    put("kind", answer.smoothed_scores ? "smoothed scores" : "scores as the model says them");
    return;
  }
  if (answer.features) { put("best", "features"); put("kind", "this model has no classes"); return; }
  if (answer.map) {
    const [low, high, mean] = ["low", "high", "mean"].map((name) => figure(answer.map[name]));
    put("best", `${answer.map.name} ${low} to ${high}`);
    put("kind", `mean ${mean}; the map lies over the picture`);
    $("scale").hidden = answer.map.shape[0] > 1;  // of several channels colours are directions
    put("scale-low", low);
    put("scale-high", high);
    return;
  }
  const on = answer.smoothed_labels_on || answer.labels_on;
  put("best", on ? on.slice(0, 3).join(", ") || "no label" : bestOf(list));
  $("best").classList.toggle("unsure", !answer.is_confident);
  const isOfPixels = list.length > 0 && list[0].score === undefined;
  const plain = isOfPixels ? "shares of the pixels" : "as the model says it";
  const smooth = answer.smoothed ? "smoothed; the mark is the raw score" : plain;
  put("kind", answer.is_confident ? smooth : `not confident · ${smooth}`);
  const bars = $("bars");
  while (bars.children.length > list.length) bars.lastChild.remove();
  list.forEach((one, place) => {
    let bar = bars.children[place];
    if (!bar) {
      bar = make("li", "bar");
      const track = make("span", "track");
      track.append(make("i"), make("b"));
      bar.append(make("span", "label"), make("span", "score"), track);
      bars.append(bar);
    }
    bar.children[0].textContent = one.label;
    const percent = ((one.score ?? one.share) * 100).toFixed(1);
    bar.children[1].textContent = `${percent} %`;
    bar.children[2].firstChild.style.width = `${percent}%`;
    const mark = bar.children[2].lastChild;
    mark.hidden = !answer.smoothed || !raw.has(one.index);
    mark.style.left = `${((raw.get(one.index) || 0) * 100).toFixed(1)}%`;
  });
}

function drawSpark(id, values) {
  const node = $(id), known = values.filter((one) => one !== null);
  node.replaceChildren();
  if (known.length < 2) return;
  const high = Math.max(...known), low = Math.min(...known), range = Math.max(high - low, high * 0.08, 1e-6);
  const floor = (high + low) / 2 - range / 2;
  node.setAttribute("viewBox", "0 0 100 44");
  node.setAttribute("preserveAspectRatio", "none");
  const points = [];
  values.forEach((one, place) => {
    if (one === null) return;
    points.push(`${(place / (values.length - 1) * 100).toFixed(2)},${(36 - (one - floor) / range * 30).toFixed(2)}`);
  });
  const first = points[0].split(",")[0], last = points[points.length - 1].split(",")[0];
  node.append(svg("path", { class: "area", d: `M${first},44 L${points.join(" L")} L${last},44 Z` }));
  node.append(svg("polyline", { class: "line", points: points.join(" ") }));
}

function remember(values) {
  for (const [name, value] of Object.entries(values)) {
    past[name].push(value === undefined ? null : value);
    if (past[name].length > HISTORY) past[name].shift();
  }
}

function drawTiles(state, answer) {
  const { summary, counts, telemetry } = state;
  const hottest = telemetry ? zones(telemetry).map((zone) => zone[1])[0] : null;
  const power = telemetry ? telemetry.power_w : null;
  remember({ fps: summary.recent_fps, latency: answer ? answer.latency_ms : null, temperature: hottest, power });
  put("fps", summary.recent_fps.toFixed(1));
  put("fps-note", `${whole(counts.answered)} since the start`);
  drawSpark("fps-line", past.fps);
  put("latency", ms(summary.latency_ms.p50));
  put("latency-note", summary.latency_ms.p99 === null ? "median" : `median · p99 ${ms(summary.latency_ms.p99)}`);
  drawSpark("latency-line", past.latency);
  const share = counts.captured ? counts.dropped / counts.captured : 0;
  put("dropped", `${(share * 100).toFixed(share && share < 0.1 ? 1 : 0)} %`);
  put("dropped-note", `${whole(counts.dropped)} of ${whole(counts.captured)}${counts.failed ? ` · ${whole(counts.failed)} failed` : ""}`);
  $("dropped-bar").style.width = `${share * 100}%`;
  drawSensor("temperature", hottest, telemetry && telemetry.throttling.length ? "slowed down by heat or power" : hottestZone(telemetry));
  drawSpark("temperature-line", past.temperature);
  $("temperature").classList.toggle("hot", Boolean(telemetry && telemetry.throttling.length));
  const each = power !== null && summary.recent_fps > 0 ? `${energy(power / summary.recent_fps)} each · ` : "";
  drawSensor("power", power, power === null ? "" : `${each}${telemetry.power_source}`);
  drawSpark("power-line", past.power);
}

function drawSensor(id, value, note) {
  const known = value !== null && value !== undefined;
  put(id, known ? value.toFixed(1) : "–");
  put(`${id}-note`, known ? note : "no sensor here");
  $(id).parentElement.classList.toggle("none", !known);
}

function zones(telemetry) {
  return Object.entries(telemetry.temperatures_c).sort((a, b) => b[1] - a[1]);
}

function hottestZone(telemetry) {
  const sorted = telemetry ? zones(telemetry) : [];
  return sorted.length ? `hottest of ${sorted.length}: ${sorted[0][0]}` : "";
}

function drawTime(state) {
  const stages = state.summary.stage_ms, split = $("split"), rows = $("rows");
  if (!rows.children.length) buildTime(state);
  const names = [];
  STAGES.forEach((stage, place) => {
    const median = stages[stage] ? stages[stage].p50 || 0 : 0;
    split.children[place].style.flexGrow = String(Math.max(median, 0.001));
    names.push(`${stage} ${ms(median)} ms`);
  });
  split.setAttribute("aria-label", `Median time of each stage: ${names.join(", ")}`);
  const most = Math.max(1, ...Object.values(state.bins).flat());
  [...STAGES, "latency"].forEach((stage, place) => {
    const row = rows.children[place + 1], values = stage === "latency" ? state.summary.latency_ms : stages[stage] || {};
    const scale = stage === "latency" ? Math.max(1, ...state.bins.latency) : most;
    state.bins[stage].forEach((count, bin) => {
      const height = count ? Math.max(1.5, Math.sqrt(count / scale) * 28) : 0;
      const bar = row.children[1].children[bin];
      bar.setAttribute("height", height.toFixed(1));
      bar.setAttribute("y", (30 - height).toFixed(1));
    });
    row.children[1].setAttribute("aria-label", `Histogram of ${stage}: median ${ms(values.p50)} ms, p99 ${ms(values.p99)} ms`);
    row.children[2].textContent = `${ms(values.p50)} ms`;
    row.children[3].textContent = values.p99 === null || values.p99 === undefined ? "–" : `${ms(values.p99)} ms`;
  });
}

function buildTime(state) {
  const { first_decade: first, per_decade: per } = state.scale, bins = state.bins.latency.length;
  const head = make("div", "row head");
  head.append(make("span"), make("span"), make("span", "number", "median"), make("span", "number", "p99"));
  $("rows").append(head);
  for (const stage of [...STAGES, "latency"]) {
    const row = make("div", stage === "latency" ? "row whole" : "row");
    row.style.setProperty("--tone", `var(--${stage})`);
    row.title = MEANS[stage];
    const chart = svg("svg", { viewBox: `0 0 ${bins} 30`, preserveAspectRatio: "none", role: "img" });
    for (let bin = 0; bin < bins; bin += 1) chart.append(svg("rect", { x: bin + 0.08, width: 0.84, y: 30, height: 0 }));
    row.append(make("span", "name", stage === "latency" ? "all of it" : stage), chart, make("span", "number"), make("span", "number minor"));
    $("rows").append(row);
  }
  for (const stage of STAGES) {
    const part = make("i");
    part.style.background = `var(--${stage})`;
    part.title = `${stage}: ${MEANS[stage]}`;
    $("split").append(part);
  }
  const marks = make("div");
  for (let decade = 0; decade <= bins / per; decade += 1) {
    const value = 10 ** (first + decade);
    marks.append(make("span", "", value >= 1000 ? `${value / 1000} s` : `${value} ms`));
  }
  $("axis").append(marks);
}

function drawTable(id, rows) {
  const body = $(id);
  while (body.children.length > rows.length) body.lastChild.remove();
  rows.forEach((cells, place) => {
    const row = body.children[place] || body.appendChild(make("tr"));
    cells.forEach((cell, column) => {
      const node = row.children[column] || row.appendChild(make("td"));
      const text = typeof cell === "number" ? whole(cell) : cell;
      if (node.textContent !== text) { node.textContent = text; node.title = typeof cell === "number" ? "" : text; }
    });
  });
}

function drawFlow(summary) {
  drawTable("sources", summary.sources.map((one) => [
    one.name, one.last_error && one.state !== "running" ? `${one.state}: ${one.last_error}` : one.state,
    one.counts.captured, one.counts.answered, one.counts.dropped, one.counts.failed, one.num_reopened,
  ]));
  drawTable("sinks", summary.sinks.map((one) => [one.name, one.last_error, one.written, one.dropped, one.failed]));
}

function draw(state) {
  const names = Object.keys(state.answers);
  if (shown >= names.length) shown = 0;
  const answer = state.answers[names[shown]];
  drawHead(state.summary);
  drawView(names, answer);
  drawAnswer(answer);
  drawTiles(state, answer);
  drawTime(state);
  drawFlow(state.summary);
}

async function ask() {
  try {
    const reply = await fetch("/state", { signal: AbortSignal.timeout(5000) });
    if (!reply.ok) throw new Error(String(reply.status));
    draw(await reply.json());
    $("lost").hidden = true;
  } catch (error) {
    failures += 1;               // the picture is asked for anew as soon as there is an answer
    watch("");
    $("lost").hidden = false;
    $("pill").dataset.state = "lost";
    put("pill", "no connection");
  }
  setTimeout(ask, document.hidden ? 3000 : 500);
}

$("picture").addEventListener("error", () => { failures += 1; });
ask();
