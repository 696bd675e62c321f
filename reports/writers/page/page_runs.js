// The inside of a cell is made when it is opened, from the data that the page carries.

let parsed = null;
const pageData = () => (parsed ??= JSON.parse(document.getElementById("data").textContent));

function definitions(pairs) {
  const list = make("dl", { class: "facts-list" });
  for (const [name, value] of pairs) list.append(make("dt", {}, name), make("dd", {}, shortened(value)));
  return list;
}

function shortened(value) {
  if (typeof value !== "string" || value.length <= 240) return value;
  return folded(`${value.slice(0, 80)} …`, make("p", {}, value));
}

function folded(title, ...content) {
  return make("details", {}, make("summary", {}, title), ...content);
}

function specification(data, place, title) {
  const entries = Object.entries(data.pool[place]).map(([key, value]) => [key, data.pool[value]]);
  return folded(title, make("pre", { tabindex: "0" }, JSON.stringify(Object.fromEntries(entries), null, 2)));
}

function matrixTable(caption, heads, rows) {
  const table = make("table", { class: "matrix" }, make("caption", {}, caption));
  table.append(make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))));
  const body = make("tbody");
  for (const [label, ...cells] of rows) {
    body.append(make("tr", {}, make("th", { scope: "row" }, label), ...cells.map((text) => make("td", {}, text))));
  }
  table.append(body);
  return table;
}

const written = (value, digits) => (value === null || value === undefined ? "" : value.toFixed(digits));

function accuracyTable(matrix, unit) {
  const tasks = matrix.map((_, i) => String(i + 1));
  const rows = matrix.map((row, i) => [tasks[i], ...tasks.map((_, j) => written(row[j], 2))]);
  return matrixTable(`Accuracy in percent on ${unit} (across) after ${unit} (down)`, ["", ...tasks], rows);
}

function secondsTable(seconds) {
  const rows = seconds.map((parts, i) => [String(i + 1), ...parts.map((part) => written(part, 1))]);
  return matrixTable("Seconds a task", ["task", "train", "end of task", "evaluate"], rows);
}

const dataName = (planned) => planned[8] ?? planned[0];

function runDetails(data, planned, common) {
  const [id, order, train, state, word, trouble, origin, holders] = planned;
  const run = data.runs[dataName(planned)];
  const summary = make("summary", {}, make("code", {}, id), ` order ${order}, training ${train}${holders ? `, by ${holders}` : ""} `);
  summary.append(make("em", { class: `mark ${state}` }, word));
  const details = make("details", { class: "run" }, summary);
  if (trouble !== null) details.append(definitions(data.pool[trouble]));
  if (!run) {
    if (!common.origin) details.append(definitions(data.pool[origin]));
    return details;
  }
  const scores = data.metrics.slice(0, 3).map((name, i) => `${name} ${run.scores[i]}`);
  summary.append(make("span", { class: "muted" }, ` ${scores.join("  ")}`));
  const environment = make("a", { href: `#environment-${run.environment}` }, run.environment);
  const pairs = data.metrics.map((name, i) => [name, run.scores[i]]).slice(3);
  const [names, arrival] = run.classes.map((place) => data.pool[place]);
  pairs.push(["Split hash", run.split], ["Classes as they arrive", arrival.map((place) => names[place]).join(", ") || "–"]);
  pairs.push(["Test images a task", data.pool[run.tests]], ...data.facts.map((name, i) => [name, run.facts[i]]), ["Environment", environment]);
  if (!common.protocol) pairs.push(...data.pool[run.protocol]);
  if (!common.origin) pairs.push(...data.pool[origin]);
  details.append(definitions([...pairs, ["Record", make("code", {}, `${id}/result.json`)]]));
  const region = { class: "scroll", tabindex: "0", role: "region", "aria-label": `Accuracy matrix and timings of run ${id}` };
  details.append(make("div", region, accuracyTable(run.matrix, run.unit || "task"), secondsTable(run.seconds)));
  if (!common.spec) details.append(specification(data, run.spec, "Specification"));
  return details;
}

function only(values) {
  const distinct = new Set(values);
  return distinct.size === 1 ? [...distinct] : null;
}

function openCell(details) {
  const data = pageData(), cell = data.cells[details.id], list = details.querySelector("ul.runs");
  if (!cell || !list) return;
  const runs = cell.runs.map((planned) => data.runs[dataName(planned)]).filter(Boolean);
  const common = {
    spec: only(runs.map((run) => run.spec)),
    protocol: only(runs.map((run) => run.protocol)),
    origin: only(cell.runs.map((planned) => planned[6])),
  };
  const parts = [];
  if (cell.note) parts.push(make("p", { class: "muted" }, cell.note));
  if (cell.scores.length) parts.push(definitions(cell.scores.map(([name, value, interval]) => [name, interval === "–" ? value : `${value}  ${interval}`])));
  const protocol = [...(common.protocol ? data.pool[common.protocol[0]] : []), ...(common.origin ? data.pool[common.origin[0]] : [])];
  if (protocol.length) parts.push(make("details", { class: "protocol", open: "" }, make("summary", {}, "Protocol of all its runs"), definitions(protocol)));
  if (common.spec) parts.push(specification(data, common.spec[0], "Specification of all its runs, seeds apart"));
  parts.push(...cell.runs.map((planned) => runDetails(data, planned, common)));
  list.replaceWith(...parts);
}

document.addEventListener("toggle", (event) => {
  if (event.target.open && event.target.matches("details.cell")) openCell(event.target);
}, true);

// A link into a closed part opens it.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target.matches("details.cell")) {
    openCell(target);
    target.querySelector("summary").focus({ preventScroll: true });
  }
  target.scrollIntoView();
}
addEventListener("hashchange", openTarget);
openTarget();
