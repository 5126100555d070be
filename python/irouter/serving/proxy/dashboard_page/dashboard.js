// Asks for the state once a second and draws it. All that is drawn is text: nothing from a request becomes markup.
"use strict";

const INTERVAL_MS = 1000;
const SVG = "http://www.w3.org/2000/svg";

function element(tag, { className = "", text = null, title = "" } = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== null) made.textContent = text;
  if (title) made.title = title;
  made.append(...children);
  return made;
}

function seconds(value) {
  if (value === null || value === undefined) return "";
  if (value < 1) return `${Math.round(1000 * value)} ms`;
  return value < 100 ? `${value.toFixed(2)} s` : `${Math.round(value)} s`;
}

const whole = (value) => Math.round(value).toLocaleString("en");
const percent = (share) => `${Math.round(100 * share)} %`;

function meter(share, title, className = "") {
  const bar = element("i", { className: share > 0.9 ? "full" : "" });
  bar.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  return element("div", { className: `meter ${className}`, title }, bar);
}

function spark(values) {
  const most = Math.max(1, ...values);
  const points = values.map((value, at) => `${at},${(20 * (1 - value / most)).toFixed(1)}`).join(" ");
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", `0 -1 ${values.length - 1} 22`);
  drawing.setAttribute("preserveAspectRatio", "none");
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("points", points);
  line.setAttribute("class", "spark");
  drawing.append(line);
  return drawing;
}

function tile(label, value, ...more) {
  return element("div", { className: "tile" }, element("small", { text: label }), element("b", { text: value }), ...more);
}

function facts(pairs) {
  const list = element("dl");
  for (const [name, value] of pairs) list.append(element("dt", { text: name }), element("dd", { text: value }));
  return list;
}

function resident(entry) {
  const late = entry.ends_in_s !== null && entry.ends_in_s < 0;
  const left = entry.ends_in_s === null ? null : Math.max(0, entry.ends_in_s);
  const share = left === null ? 0 : late ? 1 : entry.age_s / Math.max(1e-9, entry.age_s + left);
  const end = left === null ? "" : late ? ", later than expected" : `, expected to end in ${seconds(left)}`;
  const title = `request ${entry.request}: ${entry.tokens} tokens, here for ${seconds(entry.age_s)}${end}`;
  return meter(share, title, late ? "late" : "");
}

function instanceCard(entry) {
  const status = entry.share < 1 ? `${entry.status}, ${percent(entry.share)} of its share` : entry.status;
  const residents = element("div", { className: "residents" }, ...entry.residents.map(resident));
  const hidden = entry.in_flight - entry.residents.length;
  return element(
    "div",
    { className: "card instance" },
    element(
      "h4",
      {},
      element("span", { text: `${entry.number}  ${entry.url}` }),
      element("span", { className: `status ${entry.status}`, text: status }),
    ),
    facts([
      ["requests, without a token", `${entry.in_flight}, ${entry.awaiting_first_token}`],
      ["tokens produced, to come", `${whole(entry.produced_tokens)}, ${whole(entry.remaining_output_tokens)}`],
      ["expected to be done in", seconds(entry.idle_in_s)],
      ["KV cache", percent(entry.kv_share)],
    ]),
    meter(entry.kv_share, "tokens of its requests over what its KV cache holds"),
    residents,
    ...(hidden > 0 ? [element("span", { className: "quiet", text: `and ${hidden} more` })] : []),
  );
}

function row(tag, cells, className = "") {
  return element("tr", { className }, ...cells.map((cell) => (cell instanceof Node ? cell : element(tag, { text: cell }))));
}

function latencyTable(latency, percentiles) {
  if (latency.trouble) return element("p", { className: "quiet latency", text: `No figures yet: ${latency.trouble}.` });
  const heads = ["TTFT", "E2E"].flatMap((name) => percentiles.map((level) => `${name} p${level}`));
  const table = element("table", { className: "latency" }, row("th", ["policy", ...heads]));
  for (const entry of latency.rows) {
    const figures = [...(entry.ttft_s ?? percentiles.map(() => null)), ...entry.e2e_s].map(seconds);
    const name = `${entry.policy}, ${entry.simulated ? "simulated" : "measured"}`;
    table.append(row("td", [name, ...figures], entry.simulated ? "" : "measured"));
  }
  return table;
}

function decisionTable(decisions) {
  const table = element("table", { className: "decisions" }, row("th", ["request", "to", "waited", "ago", "why"]));
  for (const entry of decisions) {
    const why = entry.fallback ? "the policy failed: least predicted work" : (entry.why ?? "");
    const cell = element("td", { className: "why", text: why });
    table.append(row("td", [String(entry.request), String(entry.instance), seconds(entry.waited_s), seconds(entry.age_s), cell]));
  }
  return table;
}

function poolSection(pool, percentiles) {
  const name = pool.model === null || pool.model === pool.policy ? pool.policy : `${pool.model}: ${pool.policy}`;
  const ended = Object.entries(pool.endings).map(([ending, count]) => `${whole(count)} ${ending}`).join(", ");
  const wait = pool.waiting > 0 ? `longest ${seconds(pool.longest_wait_s)}` : "";
  return element(
    "section",
    { className: "pool" },
    element("h2", { text: name }),
    element(
      "div",
      { className: "tiles" },
      tile("decisions per second, last minute", pool.decisions_per_s.toFixed(1), spark(pool.history)),
      tile("waiting at the router", whole(pool.waiting), element("small", { text: wait })),
      tile("on instances", whole(pool.in_flight)),
      tile("taken in", whole(pool.submitted), element("small", { text: ended })),
    ),
    element("h3", { text: "Instances" }),
    element("div", { className: "cards" }, ...pool.instances.map(instanceCard)),
    element(
      "div",
      { className: "tables" },
      element(
        "div",
        {},
        element("h3", { text: pool.latency.requests > 0 ? `Latency of ${whole(pool.latency.requests)} requests` : "Latency" }),
        latencyTable(pool.latency, percentiles),
      ),
      element("div", {}, element("h3", { text: "Last decisions" }), decisionTable(pool.decisions)),
    ),
  );
}

function say(text, lost) {
  const line = document.getElementById("connection");
  line.textContent = text;
  line.className = lost ? "lost" : "";
}

async function update() {
  try {
    const answer = await fetch("/dashboard/state", { cache: "no-store", credentials: "same-origin" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const state = await answer.json();
    document.getElementById("version").textContent = state.version;
    const sections = state.pools.map((pool) => poolSection(pool, state.percentiles));
    document.getElementById("pools").replaceChildren(...sections);
    say(new Date(1000 * state.time).toLocaleTimeString(), false);
  } catch (error) {
    say(`no answer from the proxy: ${error.message}`, true);
  }
  setTimeout(update, INTERVAL_MS);
}

update();
