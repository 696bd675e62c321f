// Charts of the same numbers as the drawings: values and seeds at the pointer or the focus, a click shows a row alone.
// A drawing stays in the page for print, for browsers without scripts, and where a chart cannot be made.

const INK = "#1f2933", PALE = "#c3c9d0", LETTER = 6.9, FADED = 0.12;
const chartData = JSON.parse(document.getElementById("charts").textContent);
const isolated = (text) => `\u2068${text}\u2069`; // a name from right to left must not turn the words around it
const fixed = (value, digits = 2) => value.toFixed(digits);
const spread = ([mean, std, low, high], unit) =>
  `${fixed(mean)}${std === null ? " (one seed)" : ` ± ${fixed(std)}`} ${unit}` + (low == null ? "" : `, 95 % interval [${fixed(low, 1)}, ${fixed(high, 1)}]`);

function seeds(runs) {
  const shown = runs.slice(0, 10).map(([order, training, value]) => `order ${order}, training ${training}: ${fixed(value)}`);
  return runs.length > 10 ? [...shown, `and ${runs.length - 10} more runs`] : shown;
}

// The heading of an axis, without the parenthesis at its end where it is wider than its room.
const heading = (text, room, font) => (0.56 * font * text.length > room ? text.replace(/ \([^()]*\)$/, "") : text);

function symbolOf(marker) {
  const corners = chartData.shapes[marker];
  if (!corners || !corners.length) return "circle";
  return {
    draw(context, size) {
      const width = 1.15 * Math.sqrt(size);
      corners.forEach(([x, y], i) => (i ? context.lineTo(x * width, y * width) : context.moveTo(x * width, y * width)));
      context.closePath();
    },
  };
}

/* Rows: the mean of each, its interval and its runs, sorted. */

// Of many rows the first screen has the one compared with, the best of the ceilings and of the floors, and the best of the rest.
function mostWanted(series, count, reference) {
  const first = (kind) => series.find((one) => one.kind === kind);
  const wanted = new Set([series.find((one) => one.row === reference), first("Ceilings"), first("Floors")].filter(Boolean));
  const rest = [...series.filter((one) => one.kind === "Methods"), ...series];
  for (const one of rest) if (wanted.size < count) wanted.add(one);
  return series.filter((one) => wanted.has(one));
}

// Limits around a few of the rows, within those of all.
function around(shown, [low, high]) {
  const values = shown.flatMap((one) => [one.value[0], one.value[2] ?? one.value[0], one.value[3] ?? one.value[0], ...one.runs.map((run) => run[2])]);
  const least = Math.max(low, Math.min(...values)), most = Math.min(high, Math.max(...values)), margin = 0.05 * (most - least) + 0.1;
  return least < most ? [Math.max(low, least - margin), Math.min(high, most + margin)] : [low, high];
}

const stepOf = (width) => (width < 480 ? 16.5 : 18);

function drawRows(data, shown, view) {
  const { width, limits, opacity } = view;
  const [low, high] = limits;
  const small = width < 480, step = stepOf(width), font = small ? 11 : 12;
  const longest = Math.max(...shown.map((one) => one.row.length));
  const left = Math.min(12 + (LETTER * font / 12) * longest, small ? 0.46 * width : 0.45 * width);
  const place = (one) => String(data.series.indexOf(one)), inside = (value) => Math.min(high, Math.max(low, value));
  const domain = shown.flatMap((one, i) => (i && shown[i - 1].kind !== one.kind ? [`gap ${one.kind}`, place(one)] : [place(one)]));
  const marks = [Plot.axisX({ label: data.x, tickSize: 3, ticks: small ? 4 : 6, fontSize: font, labelAnchor: "center", labelArrow: "none" })];
  const levels = shown.filter((one) => data.levels.includes(one.kind) && one.value[0] >= low && one.value[0] <= high);
  for (const one of levels) {
    marks.push(Plot.ruleX([one.value[0]], { stroke: "#9aa5b1", strokeDasharray: one.dashes.join(" "), strokeOpacity: opacity(one) }));
  }
  for (const one of shown) {
    const [mean, , from, to] = one.value, fade = opacity(one), style = { y: () => place(one), fill: one.colour, fillOpacity: fade };
    if (from !== null && from < high && to > low) {
      marks.push(Plot.ruleY([one], { y: () => place(one), x1: inside(from), x2: inside(to), stroke: one.colour, strokeWidth: 2, strokeOpacity: fade }));
    }
    const runs = one.runs.map((run) => run[2]).filter((value) => value >= low && value <= high);
    if (one.runs.length > 1) marks.push(Plot.dot(runs, { ...style, x: (value) => value, r: 2.2, fillOpacity: 0.5 * fade }));
    if (mean >= low && mean <= high) marks.push(Plot.dot([one], { ...style, x: mean, r: 4.6, symbol: symbolOf(one.marker), stroke: "white", strokeWidth: 0.7 }));
    else marks.push(Plot.dot([one], { ...style, x: inside(mean), dx: mean < low ? 5 : -5, r: 4, symbol: symbolOf(mean < low ? "<" : ">"), fill: "white", stroke: one.colour, strokeOpacity: fade }));
  }
  const bold = (one) => one.row === data.reference;
  for (const isBold of [true, false]) {
    const named = shown.filter((one) => bold(one) === isBold), weight = isBold ? 700 : 400;
    const text = { y: place, fill: INK, fontSize: font, fillOpacity: opacity };
    marks.push(Plot.text(named, { ...text, text: "row", frameAnchor: "left", textAnchor: "end", dx: -7, fontWeight: weight, lineWidth: (left - 9) / font, textOverflow: "ellipsis-middle" }));
    marks.push(Plot.text(named, { ...text, text: (one) => fixed(one.value[0], 1), frameAnchor: "right", textAnchor: "end", dx: 36, fontWeight: 700 }));
  }
  const hits = shown.map((one) => ({
    one, x: inside(one.value[0]), y: place(one),
    lines: [`${data.value} ${spread(one.value, data.unit)}`, ...seeds(one.runs)],
  }));
  return {
    hits,
    options: {
      width, marginLeft: left, marginRight: 40, marginTop: 4, marginBottom: 36, height: 40 + step * domain.length,
      x: { domain: limits, grid: true }, y: { type: "band", domain, axis: null, padding: 0 }, marks,
    },
  };
}

/* Lines: values over tasks or over a setting, with the band of one standard deviation or of the interval. */

const valuesAt = (one, k) => (one.each ? one.each[k] : one.runs.map(([order, training, found]) => [order, training, found[k]]));

function apart(places, least, low, high) {
  const order = places.map((_, i) => i).sort((a, b) => places[a] - places[b]), found = [...places];
  order.forEach((i, k) => (found[i] = Math.max(found[i], k ? found[order[k - 1]] + least : low)));
  let limit = high;
  for (const i of order.toReversed()) {
    found[i] = Math.min(found[i], limit);
    limit = found[i] - least;
  }
  return found;
}

function drawLines(data, shown, view) {
  const { width, limits, opacity, chosen } = view;
  const [low, high] = limits, [first, last] = data.domain;
  const small = width < 480, font = small ? 11 : 12, top = 8, bottom = 38;
  const isPale = (one) => one.pale && chosen !== one;
  const named = shown.filter((one) => !isPale(one) && (end(one) >= low && end(one) <= high));
  const longest = Math.max(4, ...named.map((one) => one.row.length));
  const right = Math.min(16 + (LETTER * font / 12) * longest, 0.36 * width);
  const height = Math.max(small ? 260 : 340, top + bottom + 14 * named.length);
  const pixels = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
  const value = (pixel) => high - ((pixel - top) / (height - top - bottom)) * (high - low);
  const marks = [
    Plot.axisX({ label: data.x, tickSize: 3, ticks: data.ticks, tickFormat: (tick) => String(tick), fontSize: font, labelAnchor: "center", labelArrow: "none" }),
    Plot.axisY({ label: data.y, tickSize: 3, ticks: 6, fontSize: font, labelAnchor: "center", labelArrow: "none" }),
  ];
  for (const one of [...shown].sort((a, b) => isPale(b) - isPale(a))) {
    const colour = isPale(one) ? PALE : one.colour, fade = opacity(one);
    const line = { stroke: colour, strokeOpacity: fade, strokeWidth: one.width, strokeDasharray: one.dashes.map((part) => part * one.width).join(" "), clip: true };
    if (one.points.length === 1 && last - first > 1) {
      marks.push(Plot.ruleY([one.points[0][1]], { ...line, strokeDasharray: "2 3" }));
      continue;
    }
    if (!isPale(one)) {
      marks.push(Plot.areaY(one.points, { x: "0", y1: (p) => p[3] ?? p[1] - (p[2] ?? 0), y2: (p) => p[4] ?? p[1] + (p[2] ?? 0), fill: colour, fillOpacity: 0.1 * fade, clip: true }));
    }
    marks.push(Plot.lineY(one.points, { x: "0", y: "1", ...line }));
    if (!isPale(one)) {
      const dots = one.points.filter((p) => p[1] >= low && p[1] <= high);
      marks.push(Plot.dot(dots, { x: "0", y: "1", fill: colour, fillOpacity: fade, stroke: "white", strokeWidth: 0.5, r: 3.4, symbol: symbolOf(one.marker) }));
    }
  }
  const places = apart(named.map((one) => pixels(end(one))), 13, top + 4, height - bottom - 4);
  const labels = named.map((one, i) => ({ one, y: value(places[i]), end: end(one) }));
  marks.push(Plot.link(labels, { x1: (label) => label.one.points.at(-1)[0], x2: last + data.margin, y1: "end", y2: "y", stroke: (label) => label.one.colour, strokeOpacity: (label) => 0.6 * opacity(label.one) }));
  marks.push(Plot.text(labels, { y: "y", frameAnchor: "right", textAnchor: "start", dx: 4, text: (label) => label.one.row, fill: INK, fillOpacity: (label) => opacity(label.one), fontSize: font, lineWidth: (right - 6) / font, textOverflow: "ellipsis-middle" }));
  const hits = shown.flatMap((one) => one.points.flatMap((point, k) => (point[1] < low || point[1] > high ? [] : [{
    one, x: point[0], y: point[1],
    lines: [`${data.word} ${point[0]}: ${spread(point.slice(1), data.unit)}`, ...seeds(valuesAt(one, k))],
  }])));
  return {
    hits,
    options: {
      width, height, marginLeft: 58, marginRight: right, marginTop: top, marginBottom: bottom,
      x: { domain: [first - data.margin, last + data.margin] }, y: { domain: limits, grid: true }, marks,
    },
  };
}
const end = (one) => one.points.at(-1)[1];

/* Points: what is gained against what it costs, one panel a cost, with the line of the best where there is one. */

const amount = (value, unit) => `${value >= 100 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(3))}${unit}`;

const costOf = (panel, value) => (panel.unit.trim() === panel.name ? "" : `${panel.name} `) + amount(value, panel.unit);

// Lines along which y = level + slope x, each with its level.
function levelLines({ slope, limits: [left, right], whole: [low, high] }) {
  const lowest = low - slope * right, highest = Math.min(high - slope * left, 100), marks = [], names = [];
  const step = [1, 2, 5, 10, 20].find((one) => (highest - lowest) / one <= 10) ?? 25;
  for (let level = Math.ceil(lowest / step) * step; level <= highest; level += step) {
    const end = Math.min(right, (high - level) / slope);
    marks.push(Plot.link([0], { x1: left, y1: level + slope * left, x2: right, y2: level + slope * right, stroke: "#d3d8de", clip: true }));
    if (end > left + 0.12 * (right - left)) names.push({ text: `FAA ${level}`, x: end, y: level + slope * end });
  }
  return { marks, names };
}

// Names beside their points where there is room; the others are shown at the pointer and the focus.
const meets = (one, other) => one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];
function placeNames(spots, lines, width, height) {
  const taken = [...spots.map(({ x, y }) => [x - 6, y - 6, x + 6, y + 6]), ...lines], placed = [];
  for (const spot of spots) {
    const wide = (spot.isBold ? 7.8 : LETTER) * Math.min(spot.name.length, 26), { x, y } = spot;
    for (const [dx, dy, anchor] of [[9, 0, "start"], [-9, 0, "end"], [0, -12, "middle"], [0, 13, "middle"], [8, -11, "start"], [8, 12, "start"], [-8, -11, "end"], [-8, 12, "end"]]) {
      const left = x + dx - (anchor === "end" ? wide : anchor === "middle" ? wide / 2 : 0), box = [left, y + dy - 7, left + wide, y + dy + 7];
      const isFree = left > 48 && box[2] < width && box[1] > 0 && box[3] < height - 40;
      if (!isFree || taken.some((other) => meets(box, other))) continue;
      taken.push(box);
      placed.push({ ...spot, dx, dy, anchor });
      break;
    }
  }
  return { placed, taken };
}

function drawPoints(data, rows, view) {
  const { width, opacity, chosen } = view, panel = data.panels[view.panel];
  const at = (one) => one.at[view.panel], [low, high] = view.limits ?? panel.whole;
  const shown = rows.filter((one) => at(one) && at(one)[1] >= low && at(one)[1] <= high);
  const height = width < 480 ? 300 : 380, font = width < 480 ? 11 : 12;
  const frame = { marginLeft: 58, marginRight: 14, marginTop: 10, marginBottom: 40 };
  const x = { type: panel.scale, constant: panel.threshold, domain: panel.limits, range: [frame.marginLeft, width - frame.marginRight] };
  const y = { domain: [low, high], range: [height - frame.marginBottom, frame.marginTop] };
  const [across, up] = [Plot.scale({ x }).apply, Plot.scale({ y }).apply];
  const levels = panel.slope ? levelLines(panel) : { marks: [], names: [] };
  const marks = [
    Plot.axisX({ label: heading(panel.x, width - 72, font), tickSize: 3, ticks: panel.ticks ?? (width < 480 ? 4 : 6), tickFormat: (tick) => (tick < 1000 ? String(tick) : d3.format("~s")(tick)), fontSize: font, labelAnchor: "center", labelArrow: "none" }),
    Plot.axisY({ label: data.y, tickSize: 3, ticks: 6, fontSize: font, labelAnchor: "center", labelArrow: "none" }),
    ...levels.marks,
    Plot.line(panel.front, { x: "0", y: "1", stroke: "#374151", strokeOpacity: chosen ? 0.3 : 0.75, strokeWidth: 1.3, clip: true }),
  ];
  for (const one of shown) {
    const [gain, cost, std] = [at(one)[1], at(one)[0], at(one)[2]], fade = opacity(one);
    if (std) marks.push(Plot.ruleX([one], { x: cost, y1: Math.max(low, gain - std), y2: Math.min(high, gain + std), stroke: one.colour, strokeOpacity: 0.6 * fade }));
    marks.push(Plot.dot([one], { x: cost, y: gain, r: 4.6, symbol: symbolOf(one.marker), fill: one.colour, fillOpacity: fade, stroke: "white", strokeWidth: 0.7 }));
  }
  const first = [...shown].sort((a, b) => (b.row === data.reference) - (a.row === data.reference) || panel.best.includes(b.row) - panel.best.includes(a.row));
  const spots = first.map((one) => ({ one, name: one.row, isBold: panel.best.includes(one.row), x: across(at(one)[0]), y: up(at(one)[1]) }));
  const corners = panel.front.map(([x, y]) => [across(x), up(y)]); // its lines are level or upright
  const lines = d3.pairs(corners, ([x0, y0], [x1, y1]) => [Math.min(x0, x1), Math.min(y0, y1) - 1, Math.max(x0, x1), Math.max(y0, y1) + 1]);
  const { placed, taken } = placeNames(spots, lines, width, height);
  const free = levels.names.filter(({ x, y }) => !taken.some((box) => meets([across(x) - 45, up(y) + 1, across(x), up(y) + 15], box)));
  marks.push(Plot.text(free, { x: "x", y: "y", text: "text", dx: -3, dy: 8, textAnchor: "end", fontSize: 10, fill: "#5f6b7a" }));
  for (const { one, name, isBold, dx, dy, anchor } of placed) {
    marks.push(Plot.text([one], { x: at(one)[0], y: at(one)[1], dx, dy, textAnchor: anchor, text: () => name, lineWidth: 15, textOverflow: "ellipsis-middle", fontSize: font, fill: INK, fillOpacity: opacity(one), stroke: "white", strokeOpacity: opacity(one), strokeWidth: 3, fontWeight: isBold ? 700 : 400 }));
  }
  const hits = shown.map((one) => ({
    one, x: at(one)[0], y: at(one)[1],
    lines: [`${data.value} ${fixed(at(one)[1])}${at(one)[2] === null ? "" : ` ± ${fixed(at(one)[2])}`} ${data.unit}`, costOf(panel, at(one)[0]), ...seeds(one.runs)],
  }));
  return { hits, options: { width, height, ...frame, x, y: { ...y, grid: !panel.slope }, marks } };
}

/* What all charts have: a box that is filled when it comes near the screen, tools, tips, and the keyboard. */

const DRAW = { rows: drawRows, lines: drawLines, points: drawPoints };

function liveChart(figure, data) {
  const drawing = figure.querySelector(".drawing"), title = figure.querySelector("figcaption b").textContent.replace(/\.$/, "");
  const state = { hidden: new Set(), chosen: null, near: data.near !== null && data.form === "rows", all: false, panel: 0, current: 0, width: 0 };
  const canvas = make("div", { class: "canvas" }), status = make("span", { class: "muted", role: "status" });
  const tools = make("div", { class: "tools", role: "group", "aria-label": `What is shown of: ${title}` });
  const box = make("div", { class: "live" }, canvas, tools);
  drawing.after(box);
  let hits = [];

  const toggle = (text, isOn, act) => {
    const button = make("button", { type: "button", "aria-pressed": isOn }, text);
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", act());
      draw();
    });
    return button;
  };
  const kinds = [...new Set(data.series.map((one) => one.kind))];
  const groups = kinds.map((kind) => toggle(kind.split(",")[0], true, () => state.hidden.delete(kind) || !state.hidden.add(kind)));
  const more = toggle(`All ${data.series.length} rows`, false, () => (state.all = !state.all));
  const zoom = toggle("Zoomed in", state.near, () => (state.near = !state.near));
  const whole = make("button", { type: "button", hidden: "" }, "Show all rows again");
  whole.addEventListener("click", () => choose(null));
  const panels = (data.panels ?? []).map((panel, i) => toggle(`By ${panel.name}`, i === 0, () => {
    panels.forEach((button, k) => button.setAttribute("aria-pressed", k === i));
    state.panel = i;
    return true;
  }));
  tools.append(...(panels.length > 1 ? panels : []), more, ...(kinds.length > 1 ? groups : []), ...(data.near ? [zoom] : []), whole, status);

  function room() {
    if (state.all || data.form !== "rows" || !figure.closest(".answer")) return Infinity;
    // What stands below the chart on the first screen: its tools and caption, and the table's first row where that is not beside it.
    const at = canvas.getBoundingClientRect(), row = figure.closest("section").querySelector("table.grid tbody tr:not(.kind)");
    const ends = [figure, ...(row ? [row] : [])].map((part) => part.getBoundingClientRect()).filter((part) => part.left < at.right);
    const below = Math.max(...ends.map((part) => part.bottom)) - at.bottom;
    return Math.max(5, Math.floor((innerHeight - at.top - scrollY - below - 52) / stepOf(state.width) - kinds.length + 1));
  }

  function draw() {
    const hadFocus = canvas.contains(document.activeElement);
    const wanted = data.series.filter((one) => !state.hidden.has(one.kind)), most = room();
    const shown = wanted.length > most + 1 ? mostWanted(wanted, most, data.reference) : wanted;
    more.hidden = !(shown.length < wanted.length || state.all);
    if (!shown.includes(state.chosen)) state.chosen = null;
    whole.hidden = state.chosen === null;
    const said = [state.chosen && `Only ${isolated(state.chosen.row)}`, shown.length < wanted.length && `${shown.length} of ${wanted.length} rows`];
    status.textContent = said.filter(Boolean).join(", ");
    if (!shown.length) {
      canvas.replaceChildren(make("p", { class: "muted" }, "No group is shown."));
      hits = [];
      return;
    }
    const opacity = (one) => (state.chosen === null || state.chosen === one ? 1 : FADED);
    const limits = state.near ? data.near : data.whole;
    const view = { width: state.width, limits: shown.length < wanted.length ? around(shown, limits) : limits, opacity, chosen: state.chosen, panel: state.panel };
    const drawn = DRAW[data.form](data, shown, view);
    hits = drawn.hits;
    const over = Plot.dot(hits, { x: "x", y: "y", r: 8, fill: "transparent", ariaLabel: (hit) => `${isolated(hit.one.row)}: ${hit.lines.join("; ")}` });
    const svg = Plot.plot({ ...drawn.options, style: { color: INK, background: "white", fontFamily: "inherit", overflow: "visible" }, marks: [...drawn.options.marks, over] });
    svg.setAttribute("role", "group");
    svg.setAttribute("aria-label", `${title}. Arrow keys move between values, Enter shows a row alone.`);
    svg.querySelectorAll("g[aria-label]").forEach((group) => group.removeAttribute("aria-label")); // Plot's names of its marks
    canvas.replaceChildren(svg);
    if (!hits.length) return; // all values are outside of a zoomed axis, or have no such cost
    Array.from(svg.lastElementChild.children).forEach((point, i) => {
      hits[i].point = point;
      point.setAttribute("role", "button");
      point.setAttribute("tabindex", "-1");
      point.classList.add("hit");
    });
    state.current = Math.min(state.current, hits.length - 1);
    hits[state.current].point.setAttribute("tabindex", "0");
    if (hadFocus) hits[state.current].point.focus();
  }

  function choose(one) {
    state.chosen = state.chosen === one ? null : one;
    draw();
  }

  function show(hit) {
    const place = hit.point.getBoundingClientRect();
    showTip(place, make("b", {}, make("bdi", {}, hit.one.row)), ...hit.lines.map((line) => make("div", {}, line)));
  }

  function nearest(event) {
    let found = null, least = 32;
    for (const hit of hits) {
      const place = hit.point.getBoundingClientRect();
      const x = place.x + place.width / 2 - event.clientX, y = place.y + place.height / 2 - event.clientY;
      const distance = data.form === "rows" ? Math.abs(y) * 3 : Math.hypot(x, y); // a row answers along all of its width
      if (distance < least) [found, least] = [hit, distance];
    }
    return found;
  }

  canvas.addEventListener("pointermove", (event) => {
    const hit = nearest(event);
    canvas.classList.toggle("near", hit !== null);
    hit ? show(hit) : hideTip();
  });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => {
    const hit = nearest(event);
    if (!hit) return;
    state.current = hits.indexOf(hit);
    choose(hit.one);
  });
  canvas.addEventListener("focusin", () => {
    const at = hits.findIndex((hit) => hit.point === document.activeElement);
    if (at >= 0 && hits[at].point.matches(":focus-visible")) show(hits[at]);
  });
  canvas.addEventListener("keydown", (event) => {
    const here = hits[state.current];
    if (!here) return;
    if (event.key === "Enter" || event.key === " ") choose(here.one);
    else if (event.key === "Escape" && state.chosen) choose(null);
    else {
      const rows = [...new Set(hits.map((hit) => hit.one))], down = { ArrowDown: 1, ArrowUp: -1 }[event.key], across = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const same = (one) => hits.filter((hit) => hit.one === one);
      let next = null;
      if (down) {
        const row = same(rows[rows.indexOf(here.one) + down]);
        next = row.find((hit) => hit.x === here.x) ?? row.at(-1);
      } else if (across) next = data.form !== "lines" ? hits[state.current + across] : same(here.one)[same(here.one).indexOf(here) + across];
      else return;
      if (next) {
        here.point.setAttribute("tabindex", "-1");
        state.current = hits.indexOf(next);
        next.point.setAttribute("tabindex", "0");
        next.point.focus();
      }
    }
    event.preventDefault();
  });

  return (width) => {
    if (Math.abs(width - state.width) < 1) return;
    state.width = width;
    figure.classList.add("drawn");
    draw();
  };
}

const live = new Map();
const resized = new ResizeObserver((entries) => entries.forEach(({ target }) => redraw(target)));
function redraw(figure) {
  const width = figure.clientWidth;
  if (width > 0) live.get(figure)(Math.min(width, 760));
}
function begin(figure) {
  near.unobserve(figure);
  if (live.has(figure)) return;
  live.set(figure, liveChart(figure, chartData.charts[figure.dataset.chart]));
  redraw(figure);
  resized.observe(figure);
}
const near = new IntersectionObserver(
  (entries) => entries.forEach(({ target, isIntersecting }) => isIntersecting && begin(target)), { rootMargin: "600px" });
document.querySelectorAll("figure[data-chart]").forEach((figure) => near.observe(figure));
document.querySelector(".answer")?.querySelectorAll("figure[data-chart]").forEach(begin); // those of the first screen, at once
