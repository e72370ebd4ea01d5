// The page's behaviour: choices, charts, table, cases. Text from runs is only ever set as text.
"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
const columns = new Map(page.columns.map((column) => [column.name, column]));
const rowNumbers = Array.from({ length: page.rows }, (_, index) => index);
const byId = (id) => document.getElementById(id);

// Values

/** The value of a column in a row; undefined where no row has that column. */
function value(name, row) {
  const packed = page.values[name];
  if (packed === undefined) return undefined;
  if ("same" in packed) return packed.same;
  return "all" in packed ? packed.all[row] : packed.of[packed.at[row]];
}

const isKnown = (given) => given !== null && given !== undefined && given !== "";
const hasFigures = (row) => ["measured", "counted"].includes(value("status", row));

/** Three significant digits, never in exponents. */
function significant(number) {
  if (number === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(Number(number.toPrecision(3)))));
  const text = number.toFixed(Math.min(100, Math.max(0, 2 - size)));
  if (size < 0) return text.replace(/0+$/, "");
  return size > 2 ? String(Number(number.toPrecision(3))) : text;
}

/** With a decimal prefix: 12.3 G. */
function prefixed(number) {
  for (const [step, prefix] of [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(number) >= step) return `${significant(number / step)} ${prefix}`;
  }
  return significant(number);
}

/** A value as people read it, with its unit where `unit` is true. */
function shown(name, given, unit = false) {
  if (!isKnown(given)) return "";
  const column = columns.get(name);
  if (column === undefined || typeof given === "string") return String(given);
  if (typeof given === "boolean") return given ? "yes" : "no";
  if (column.unit === "%" && given > 0 && given < 1e-5) return given.toExponential(2); // an error
  const own = column.unit ? `${column.unit === "%" ? "" : " "}${column.unit}` : "";
  const scaled = given * column.scale;
  const isWhole = column.type === "int" && column.scale === 1 && Math.abs(given) < 1e5;
  const text = isWhole ? String(given) : scaled >= 1e5 ? prefixed(scaled) : significant(scaled);
  return unit || column.unit === "%" ? text + own : text;
}

/** As records.csv has it. */
const exact = (given) => (isKnown(given) ? String(given) : "");

/** What a row is called: its subject with its own settings, and what else differs there. */
function labelOf(row, without = []) {
  const words = [value("label", row)];
  if ("impl" in page.choices && !without.includes("impl")) words.push(value("impl", row));
  return words.join(" ");
}

/** An element with attributes, text and children. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, given] of Object.entries(attributes)) {
    if (given === true) made.setAttribute(name, "");
    else if (given !== false && given !== undefined) made.setAttribute(name, given);
  }
  made.append(...children);
  return made;
}

// Colours

function followTheme() {
  const select = byId("theme");
  const keep = (name) => {
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
  };
  try {
    select.value = localStorage.getItem("vitbench-theme") || "";
  } catch {
    select.value = ""; // a browser may keep nothing for files
  }
  keep(select.value);
  select.addEventListener("change", () => {
    keep(select.value);
    try {
      localStorage.setItem("vitbench-theme", select.value);
    } catch {
      // then it holds until the page is closed
    }
  });
}

/** Each subject's colour as a CSS variable, lighter on a dark page, so that themes need no redrawing. */
const colourNames = new Map();
function nameColours() {
  const lines = Object.entries(page.styles).map(([subject, style], index) => {
    colourNames.set(subject, `var(--subject-${index})`);
    const isBlack = style.colour === "#222222";
    const colour = isBlack ? "var(--black)" : `color-mix(in srgb, ${style.colour}, light-dark(${style.colour}, white) 30%)`;
    return `--subject-${index}: ${colour};`;
  });
  document.head.append(element("style", {}, `:root { ${lines.join(" ")} }`));
}

// Choices: what the charts show

const chosen = {};

/** The rows that agree with the choices, but for those named. */
function chosenRows(...without) {
  const names = Object.keys(page.choices).filter((name) => !without.includes(name));
  return rowNumbers.filter(
    (row) => hasFigures(row) && names.every((name) => sameChoice(value(name, row), chosen[name])),
  );
}

const sameChoice = (given, wanted) => wanted === undefined || choiceText(given) === wanted;
const choiceText = (given) => (isKnown(given) ? String(given) : "none");

/** The values that a choice has among rows; numbers in their order. */
function optionsAmong(name, rows) {
  const found = [...new Set(rows.map((row) => choiceText(value(name, row))))];
  const size = (text) => text.split("x").reduce((area, side) => area * Number(side), text.includes("x") ? 1 : Number(text));
  return found.every((text) => /^[0-9x.]+$/.test(text)) ? found.sort((a, b) => size(a) - size(b)) : found;
}

/** The form anew: each choice offers what the choices before it leave. */
function drawChoices() {
  const form = byId("choices");
  const focused = document.activeElement && document.activeElement.id;
  form.replaceChildren();
  let rows = rowNumbers.filter(hasFigures);
  for (const [name, title] of Object.entries(page.choices)) {
    const options = optionsAmong(name, rows);
    if (!options.includes(chosen[name])) {
      // That of the most subjects, not of the most rows: eager has no int8, and is what all know.
      const subjects = new Map();
      for (const row of rows) {
        const text = choiceText(value(name, row));
        subjects.set(text, (subjects.get(text) || new Set()).add(value("subject", row)));
      }
      chosen[name] = [...subjects].sort((a, b) => b[1].size - a[1].size).map(([text]) => text)[0];
    }
    rows = rows.filter((row) => sameChoice(value(name, row), chosen[name]));
    if (options.length > 1) form.append(choice(name, title, options, chosen[name], (text) => (chosen[name] = text)));
  }
  const metrics = page.metrics.map((metric) => metric.name);
  const titles = new Map(page.metrics.map((metric) => [metric.name, metric.title]));
  chosen.metric = chosen.metric || metrics[0];
  form.append(choice("metric", "show", metrics, chosen.metric, (text) => (chosen.metric = text), titles));
  if (focused && byId(focused)) byId(focused).focus();
}

function choice(name, title, options, current, keep, titles = new Map()) {
  const select = element("select", { id: `choice-${name}` });
  for (const text of options) select.append(element("option", { value: text, selected: text === current }, titles.get(text) || text));
  select.addEventListener("change", () => {
    keep(select.value);
    drawChoices();
    drawCharts();
  });
  return element("label", {}, title, select);
}

// Charts

const INK = "var(--ink)";
const CONFIG = {
  background: null,
  font: "system-ui, sans-serif",
  view: { stroke: null },
  axis: { labelColor: INK, titleColor: "var(--muted)", gridColor: "var(--line)", domainColor: "var(--line)", tickColor: "var(--line)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: 400, labelLimit: 190 },
  legend: { labelColor: INK, titleColor: "var(--muted)", labelFontSize: 11, symbolSize: 60, labelLimit: 170 },
  text: { color: INK, fontSize: 12 },
};
// Matplotlib's markers; of two of them the outline.
const SHAPES = {
  o: "circle",
  s: "square",
  "^": "triangle-up",
  D: "diamond",
  v: "triangle-down",
  P: "cross",
  X: "M-.7,-1L0,-.3L.7,-1L1,-.7L.3,0L1,.7L.7,1L0,.3L-.7,1L-1,.7L-.3,0L-1,-.7Z",
  "<": "triangle-left",
  ">": "triangle-right",
  h: "M0,-1L.87,-.5L.87,.5L0,1L-.87,.5L-.87,-.5Z",
};
const DASHES = { "-": [1, 0], "--": [6, 3], "-.": [6, 2, 2, 2], ":": [2, 2] };
const MOST_BARS = 60;

/** Draws a Vega-Lite chart into an element as wide as it; returns a promise. */
function draw(target, spec, description) {
  if (typeof vegaEmbed === "undefined") return Promise.resolve();
  const options = { renderer: "svg", actions: false, defaultStyle: false, tooltip: { disableDefaultStyle: true } };
  const whole = { width: "container", autosize: { type: "fit-x", contains: "padding" }, config: CONFIG, description, ...spec };
  return vegaEmbed(target, whole, options);
}

const metricNow = () => page.metrics.find((metric) => metric.name === chosen.metric);

/** A row as charts read it. */
function point(row, metric) {
  const column = columns.get(metric.name);
  const scaled = (name) => (isKnown(value(name, row)) ? value(name, row) * column.scale : null);
  const [low, high] = (metric.ends || []).map(scaled);
  return {
    label: labelOf(row, ["impl"].filter(() => "impl" in page.choices)),
    subject: value("subject", row),
    size: value("size", row),
    runtime: value("runtime", row),
    side: Math.sqrt(value("image_height", row) * value("image_width", row)),
    value: scaled(metric.name),
    low: low === undefined || low === null ? scaled(metric.name) : low,
    high: high === undefined || high === null ? scaled(metric.name) : high,
    text: shown(metric.name, value(metric.name, row), true),
    plain: shown(metric.name, value(metric.name, row)),
    trust: value("trust", row) || "",
  };
}

const axisTitle = (metric) => {
  const unit = columns.get(metric.name).unit;
  return unit && !metric.title.includes(unit) ? `${metric.title}, ${unit}` : metric.title;
};
const byValue = (metric) => (a, b) => (metric.more ? b.value - a.value : a.value - b.value);
const setting = (...without) => Object.keys(page.choices).filter((name) => !without.includes(name) && chosen[name] !== undefined).map((name) => (name === "size" ? `${chosen[name]} px` : name === "runtime" ? `in ${chosen[name]}` : name === "batch_size" ? `batch ${chosen[name]}` : chosen[name] === "false" || chosen[name] === "none" ? "" : chosen[name])).filter(Boolean).join(", ");
const colourScale = (points) => {
  const subjects = new Map(points.map((one) => [one.label, one.subject]));
  return { domain: [...subjects.keys()], range: [...subjects.values()].map((subject) => colourNames.get(subject)) };
};

function caption(id, title, note) {
  const figure = byId(id);
  figure.querySelector("figcaption").replaceChildren(title, element("small", {}, note));
  return figure.querySelector(".chart");
}

function drawCharts() {
  const metric = metricNow();
  return Promise.all([drawRanking(metric), drawCurves(metric), drawScatter("scatter", "macs", "latency_s", "down and to the left is better"), drawScatter("accuracy", "throughput_img_s", "published_top1", "up and to the right is better; accuracy as published, not measured here"), drawHeat(metric)]);
}

/** The subjects of one setting in order, with intervals; and the sentence above the charts. */
function drawRanking(metric) {
  const all = chosenRows().map((row) => point(row, metric)).filter((one) => one.value !== null).sort(byValue(metric));
  const points = all.slice(0, MOST_BARS);
  tell(metric, all);
  const note = (metric.ends ? "bars: median, lines: 95% interval" : "") + (all.length > points.length ? `; the first ${points.length} of ${all.length}` : "");
  const target = caption("ranking", `${capital(metric.title)}: ${setting() || "all"}`, note);
  const y = { field: "label", type: "nominal", sort: null, axis: { title: null, domain: false, ticks: false, labelPadding: 6, grid: false } };
  const tooltip = [{ field: "label", title: "what" }, { field: "text", title: metric.title }, { field: "trust", title: "trust" }];
  const highest = Math.max(...points.map((one) => one.high));
  return draw(target, {
    data: { values: points },
    height: 24 * points.length,
    encoding: { y },
    layer: [
      { mark: { type: "bar", height: 15 }, encoding: { x: { field: "value", type: "quantitative", title: axisTitle(metric), scale: { domain: [0, highest * 1.16] }, axis: { format: "~s", tickCount: 4 } }, color: { field: "label", type: "nominal", scale: colourScale(points), legend: null }, tooltip } },
      { mark: { type: "rule", strokeWidth: 1.5, color: INK }, encoding: { x: { field: "low", type: "quantitative" }, x2: { field: "high" } } },
      { mark: { type: "text", align: "left", dx: 6, fontSize: 11 }, encoding: { x: { field: "high", type: "quantitative" }, text: { field: "plain" } } },
    ],
  }, `${capital(metric.title)} of each subject. The table holds the figures.`);
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** The grade, where no order should be read from a figure. */
const doubt = (one) => (["C", "D"].includes(one.trust) ? ` (trust ${one.trust})` : "");

/** The first of the ranking in a sentence. */
function tell(metric, points) {
  const told = byId("told");
  if (!points.length) {
    told.textContent = "Nothing was measured in this setting.";
    return;
  }
  const [best, second] = points;
  const where = setting() ? ` (${setting()})` : "";
  const name = element("strong", {}, element("bdi", {}, best.label));
  told.replaceChildren(`${metric.more ? "Highest" : "Lowest"} ${metric.title}${where}: `, name, `${doubt(best)}, ${best.text}`);
  if (second) {
    const times = metric.more ? best.value / second.value : second.value / best.value;
    const isOpen = metric.ends && (metric.more ? best.low <= second.high : best.high >= second.low);
    told.append("; then ", element("bdi", {}, second.label), `${doubt(second)}, ${second.text}: `, isOpen ? "their intervals overlap." : `a factor of ${significant(times)}.`);
  }
}

/** A metric against the resolution: a line for each subject. */
function drawCurves(metric) {
  const points = chosenRows("size").map((row) => point(row, metric)).filter((one) => one.value > 0);
  const sides = [...new Set(points.map((one) => one.side))].sort((a, b) => a - b);
  byId("curves").hidden = sides.length < 2;
  if (sides.length < 2) return Promise.resolve();
  const last = new Map();
  for (const one of points) if (!last.has(one.label) || last.get(one.label).side < one.side) last.set(one.label, one);
  const order = [...last.values()].sort((a, b) => b.value - a.value);
  const styles = order.map((one) => page.styles[one.subject]);
  const seen = {};
  const dashes = order.map((one, index) => {
    seen[one.subject] = (seen[one.subject] || 0) + 1;
    const names = Object.keys(DASHES);
    return DASHES[names[(names.indexOf(styles[index].line) + seen[one.subject] - 1) % names.length]];
  });
  const domain = order.map((one) => one.label);
  const isNarrow = byId("curves").clientWidth < 460;
  const legend = { title: null, orient: isNarrow ? "bottom" : "right", columns: isNarrow ? 2 : 1, symbolLimit: domain.length, symbolStrokeWidth: 2 };
  const target = caption("curves", `${capital(metric.title)} against resolution: ${setting("size") || "all"}`, "both axes logarithmic; a name in the legend picks its line");
  return draw(target, {
    data: { values: points },
    height: Math.max(300, isNarrow ? 300 : 17 * domain.length),
    encoding: {
      x: { field: "side", type: "quantitative", title: "image, pixels", scale: { type: "log", nice: false, padding: 12 }, axis: { values: sides, labelExpr: "format(datum.value, '.0f')", grid: false } },
      y: { field: "value", type: "quantitative", title: axisTitle(metric), scale: { type: "log", nice: false, padding: 12 }, axis: { format: "~s", tickCount: 6 } },
      color: { field: "label", type: "nominal", scale: { domain, range: order.map((one) => colourNames.get(one.subject)) }, legend },
      opacity: { condition: { param: "picked", value: 1 }, value: 0.12 },
      tooltip: [{ field: "label", title: "what" }, { field: "size", title: "image, pixels" }, { field: "text", title: metric.title }, { field: "trust", title: "trust" }],
    },
    layer: [
      { params: [{ name: "picked", select: { type: "point", fields: ["label"] }, bind: "legend" }], mark: { type: "line", strokeWidth: 1.8 }, encoding: { strokeDash: { field: "label", type: "nominal", scale: { domain, range: dashes }, legend } } },
      { mark: { type: "point", filled: true, size: 45 }, encoding: { shape: { field: "label", type: "nominal", scale: { domain, range: styles.map((style) => SHAPES[style.marker] || "circle") }, legend } } },
    ],
  }, `${capital(metric.title)} against resolution, a line for each subject. The table holds the figures.`);
}

/** Two columns against each other, with the front: what nothing beats in both. */
function drawScatter(id, across, up, note) {
  const figure = byId(id);
  const metrics = [across, up].map((name) => page.metrics.find((metric) => metric.name === name));
  const [x, y] = metrics;
  const rows = x && y ? chosenRows() : [];
  const known = rows.map((row) => ({ ...point(row, y), x: point(row, x).value, xText: point(row, x).text })).filter((one) => one.x !== null && one.value !== null);
  const points = known.filter((one) => one.x > 0 && one.value > 0);
  const absent = known.filter((one) => !points.includes(one)).map((one) => one.label);
  figure.hidden = points.length < 2;
  if (points.length < 2) return Promise.resolve();
  markFront(points, x.more, y.more);
  const title = `${capital(y.title)} against ${x.title}`;
  const target = caption(id, `${title}: ${setting() || "all"}`, `${note}; named: those that no other beats in both${absent.length ? `; without ${absent.join(", ")}, which a logarithmic axis cannot show` : ""}`);
  const scale = (metric) => (metric.name === "published_top1" ? { zero: false, padding: 24 } : { type: "log", nice: false, padding: 24 });
  const axis = { format: "~s", tickCount: 5 };
  return draw(target, {
    data: { values: points },
    height: 320,
    encoding: {
      x: { field: "x", type: "quantitative", title: axisTitle(x), scale: scale(x), axis },
      y: { field: "value", type: "quantitative", title: axisTitle(y), scale: scale(y), axis },
    },
    layer: [
      { transform: [{ filter: "datum.front" }], mark: { type: "line", color: "var(--muted)", strokeDash: [3, 3] } },
      { mark: { type: "point", filled: true, size: 80, opacity: 0.9 }, encoding: { color: { field: "label", type: "nominal", scale: colourScale(points), legend: null }, tooltip: [{ field: "label", title: "what" }, { field: "xText", title: x.title }, { field: "text", title: y.title }, { field: "trust", title: "trust" }] } },
      ...["up", "down"].filter((name) => points.some((one) => one[name])).map((name) => ({
        transform: [{ filter: `datum.${name}` }],
        mark: { type: "text", align: { expr: "datum.isRight ? 'right' : 'left'" }, dx: { expr: "datum.isRight ? -4 : 4" }, dy: name === "up" ? -12 : 14, fontSize: 11 },
        encoding: { text: { field: name } },
      })),
    ],
  }, `${title}. The table holds the figures.`);
}

/** Names the points of the front, above and below in turns, so that neighbours do not collide. */
function markFront(points, isMoreAcross, isMoreUp) {
  const good = (value_, isMore) => (isMore ? -value_ : value_);
  const sides = points.map((one) => Math.log(one.x));
  const middle = (Math.min(...sides) + Math.max(...sides)) / 2;
  let best = Infinity;
  let isAbove = false;
  const ordered = [...points].sort((a, b) => good(a.x, isMoreAcross) - good(b.x, isMoreAcross) || good(a.value, isMoreUp) - good(b.value, isMoreUp));
  for (const one of ordered) {
    one.front = good(one.value, isMoreUp) < best ? one.label : "";
    best = Math.min(best, good(one.value, isMoreUp));
    isAbove = one.front ? !isAbove : isAbove;
    one.up = one.front && isAbove ? one.front : "";
    one.down = one.front && !isAbove ? one.front : "";
    one.isRight = Math.log(one.x) > middle;
  }
}

/** A metric of each subject in each runtime. */
function drawHeat(metric) {
  const figure = byId("heat");
  const points = chosenRows("runtime").map((row) => point(row, metric)).filter((one) => one.value > 0);
  const names = [...new Set(points.map((one) => one.runtime))];
  figure.hidden = names.length < 2;
  if (names.length < 2) return Promise.resolve();
  const best = new Map();
  for (const one of points) {
    const known = best.get(one.label);
    if (known === undefined || (metric.more ? one.value > known : one.value < known)) best.set(one.label, one.value);
  }
  for (const one of points) {
    one.share = metric.more ? one.value / best.get(one.label) : best.get(one.label) / one.value;
  }
  const order = [...best].sort((a, b) => (metric.more ? b[1] - a[1] : a[1] - b[1])).map(([label]) => label);
  const longest = (texts) => 7 * Math.max(...texts.map((text) => text.length)); // pixels, about
  const isCrowded = (figure.clientWidth - longest(order)) / names.length < longest(names);
  const target = caption("heat", `${capital(metric.title)} by runtime: ${setting("runtime") || "all"}`, `${columns.get(metric.name).unit || "figures"}; the fuller the colour, the nearer to the best of its row, which is bold`);
  return draw(target, {
    data: { values: points },
    height: 24 * order.length,
    encoding: {
      x: { field: "runtime", type: "nominal", sort: null, axis: { title: null, orient: "top", labelAngle: isCrowded ? -90 : 0, domain: false, ticks: false } },
      y: { field: "label", type: "nominal", sort: order, axis: { title: null, domain: false, ticks: false } },
      tooltip: [{ field: "label", title: "what" }, { field: "runtime" }, { field: "text", title: metric.title }, { field: "trust", title: "trust" }],
    },
    layer: [
      { mark: { type: "rect", color: "var(--cold)", stroke: "var(--paper)", strokeWidth: 1 }, encoding: { opacity: { field: "share", type: "quantitative", scale: { domain: [0, 1], range: [0, 0.55] }, legend: null } } },
      { mark: { type: "text", fontSize: 11 }, encoding: { text: { field: "plain" }, opacity: { value: 1 } } },
      { transform: [{ filter: "datum.share === 1" }], mark: { type: "text", fontSize: 11, fontWeight: "bold" }, encoding: { text: { field: "plain" } } },
    ],
  }, `${capital(metric.title)} of each subject in each runtime. The table holds the figures.`);
}

// Table

const STEP = 500;
const table = { shown: [], sort: null, isDescending: false, words: [], only: {}, limit: STEP };
const EXTRA = new Map([
  ["run", { title: "run", meaning: "the run of this report" }],
  ["label", { title: "subject", meaning: "the mechanism or model, with its own settings" }],
  ["size", { title: "pixels", meaning: "height and width of an image" }],
]);
const described = (name) => EXTRA.get(name) || columns.get(name);
const isFigure = (name) => columns.has(name) && ["int", "float"].includes(columns.get(name).type);
const searchNames = ["run", "label", "size", "runtime", "dtype", "impl", "mode", "status", "message", "trust", "device_name", "settings"];
let searched = null;

function startTable() {
  const choices = Object.keys(page.choices).filter((name) => columns.has(name));
  const figures = page.figures.filter((name) => columns.has(name));
  const isSame = (name) => page.values[name] !== undefined && "same" in page.values[name];
  table.shown = [...("run" in page.choices ? ["run"] : []), "label", "size", ...choices, ...figures];
  if (columns.has("status") && !isSame("status")) table.shown.push("status");
  drawColumnChooser();
  drawFilters();
  byId("filter").addEventListener("input", () => {
    table.words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    table.limit = STEP;
    drawRows();
  });
  byId("more").addEventListener("click", () => {
    table.limit = Infinity;
    drawRows();
  });
  byId("download").addEventListener("click", download);
  drawHead();
  drawRows();
}

function drawColumnChooser() {
  const groups = new Map([["table", [...("run" in page.choices ? ["run"] : []), "label", "size"]]]);
  for (const column of page.columns) groups.set(column.group, [...(groups.get(column.group) || []), column.name]);
  for (const [group, names] of groups) {
    const set = element("fieldset", {}, element("legend", {}, group));
    for (const name of names) {
      const box = element("input", { type: "checkbox", value: name, checked: table.shown.includes(name) });
      box.addEventListener("change", () => {
        table.shown = box.checked ? [...table.shown, name] : table.shown.filter((other) => other !== name);
        drawHead();
        drawRows();
      });
      set.append(element("label", { title: described(name).meaning }, box, ` ${described(name).title}`));
    }
    byId("columns").append(set);
  }
}

function drawFilters() {
  const names = [...Object.keys(page.choices), "subject", "status", "trust"];
  for (const name of new Set(names)) {
    const options = page.values[name] === undefined ? [] : optionsAmong(name, rowNumbers);
    if (options.length < 2 || options.length > 60) continue;
    const title = page.choices[name] || name;
    const select = element("select", { id: `only-${name}` }, element("option", { value: "" }, "all"));
    for (const text of options) select.append(element("option", { value: `=${text}` }, text));
    select.addEventListener("change", () => {
      table.only[name] = select.value ? select.value.slice(1) : undefined;
      table.limit = STEP;
      drawRows();
    });
    byId("filters").append(element("label", {}, title, select));
  }
}

/** What is searched in a row, in small letters. */
function searchText(row) {
  searched = searched || [];
  if (searched[row] === undefined) searched[row] = searchNames.map((name) => exact(value(name, row))).join(" ").toLowerCase();
  return searched[row];
}

/** The rows that the filters leave, in order. */
function tableRows() {
  const only = Object.entries(table.only).filter(([, text]) => text !== undefined);
  const rows = rowNumbers.filter(
    (row) => only.every(([name, text]) => choiceText(value(name, row)) === text) && table.words.every((word) => searchText(row).includes(word)),
  );
  if (table.sort === null) return rows;
  const name = table.sort === "size" ? "image_height" : table.sort;
  const sign = table.isDescending ? -1 : 1;
  const compare = new Intl.Collator("en", { numeric: true }).compare;
  return rows.sort((one, other) => {
    const [a, b] = [value(name, one), value(name, other)];
    if (!isKnown(a) || !isKnown(b)) return isKnown(b) - isKnown(a) || one - other; // the unknown last
    return sign * (typeof a === "number" ? a - b : compare(String(a), String(b))) || one - other;
  });
}

function drawHead() {
  const head = element("tr");
  for (const name of table.shown) {
    const { title, unit, meaning } = described(name);
    const button = element("button", { type: "button", title: meaning }, unit && unit !== "%" && unit !== title ? `${title}, ${unit}` : title);
    button.addEventListener("click", () => sortBy(name));
    const order = table.sort === name ? (table.isDescending ? "descending" : "ascending") : undefined;
    head.append(element("th", { scope: "col", "data-column": name, "aria-sort": order, class: isFigure(name) ? "figure" : undefined }, button));
  }
  byId("rows").tHead.replaceChildren(head);
}

/** Figures start with the highest, words with the first; a second click turns the order round. */
function sortBy(name) {
  table.isDescending = table.sort === name ? !table.isDescending : isFigure(name);
  table.sort = name;
  drawHead();
  byId("rows").tHead.querySelector(`[data-column="${name}"] button`).focus();
  drawRows();
}

function drawRows() {
  const rows = tableRows();
  const body = document.createDocumentFragment();
  for (const row of rows.slice(0, table.limit)) body.append(tableRow(row));
  byId("rows").tBodies[0].replaceChildren(body);
  byId("count").textContent = rows.length === page.rows ? `${page.rows} rows` : `${rows.length} of ${page.rows} rows`;
  byId("more").hidden = rows.length <= table.limit;
  byId("more").textContent = `Show all ${rows.length} rows; the first ${table.limit} are shown`;
}

function tableRow(row) {
  const line = element("tr", { "data-row": row });
  for (const name of table.shown) {
    const given = value(name, row);
    if (name === "label") {
      const link = element("a", { href: `#case-${row}` }, labelOf(row, ["impl"]));
      const kind = link.textContent.length > 24 ? "long" : undefined;
      line.append(element("th", { scope: "row", class: kind }, element("bdi", {}, link)));
      continue;
    }
    const text = shown(name, given);
    const kind = isFigure(name) ? "figure" : text.length > 24 ? "long" : undefined;
    const cell = element("td", { class: kind, "data-column": name }, text);
    if (name === "trust" && given) {
      cell.className = `grade-${given}`;
      cell.title = value("trust_reasons", row) || "";
    } else if (typeof given === "number") cell.title = exact(given);
    if (name === "status" && !["measured", "counted"].includes(given)) {
      cell.className = "failed";
      cell.append(element("br"), element("small", {}, value("message", row) || ""));
    }
    line.append(cell);
  }
  return line;
}

/** The rows of the table, with every column, as a file. */
function download() {
  const names = [...("run" in page.choices ? ["run"] : []), ...page.names];
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const cell = (given) => {
    const text = exact(given);
    // A spreadsheet would carry out a text that starts so.
    return quoted(typeof given === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  };
  const lines = tableRows().map((row) => names.map((name) => cell(value(name, row))).join(","));
  const blob = new Blob([`${[names.join(","), ...lines].join("\n")}\n`], { type: "text/csv" });
  const link = element("a", { href: URL.createObjectURL(blob), download: "vitbench.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Cases

const filled = new Set();

/** A part for each subject, and in it one for each case, which is filled when it is opened. */
function startCases() {
  const subjects = new Map();
  for (const row of rowNumbers) {
    const name = value("subject", row);
    subjects.set(name, [...(subjects.get(name) || []), row]);
  }
  for (const [name, rows] of subjects) {
    const part = element("details", {}, element("summary", {}, element("bdi", {}, name), ` (${rows.length})`));
    part.addEventListener("toggle", () => part.open && fillSubject(part, rows));
    part.dataset.rows = rows.join(" ");
    byId("list").append(part);
  }
  window.addEventListener("hashchange", openFromAddress);
  openFromAddress();
}

function fillSubject(part, rows) {
  if (filled.has(part)) return;
  filled.add(part);
  for (const row of rows) {
    const own = element("details", { id: `case-${row}` }, element("summary", {}, caseName(row)));
    own.addEventListener("toggle", () => own.open && fillCase(own, row));
    part.append(own);
  }
}

/** What tells the case from the others of the page. */
function caseName(row) {
  const names = Object.keys(page.choices).filter((name) => name !== "kind" && isKnown(value(name, row)));
  const words = names.map((name) => (name === "size" ? "" : choiceText(value(name, row)))).filter((text) => text && text !== "false");
  return [`${value("label", row)} ${value("size", row)} px`, ...words].join(", ");
}

/** Opens the case that the address names. */
function openFromAddress() {
  const match = /^#case-([0-9]+)$/.exec(location.hash);
  if (!match || Number(match[1]) >= page.rows) return;
  for (const part of byId("list").children) {
    if (!part.dataset.rows.split(" ").includes(match[1])) continue;
    fillSubject(part, part.dataset.rows.split(" ").map(Number));
    part.open = true;
    const own = byId(`case-${match[1]}`);
    own.open = true;
    own.querySelector("summary").focus();
    own.scrollIntoView({ block: "start" });
  }
}

function fillCase(part, row) {
  if (filled.has(part)) return;
  filled.add(part);
  const status = value("status", row);
  if (status === "measured") {
    const grade = value("trust", row);
    const reasons = (value("trust_reasons", row) || "").split("; ").filter(Boolean);
    part.append(element("p", {}, `${shown("throughput_img_s", value("throughput_img_s", row), true)}, ${shown("latency_s", value("latency_s", row), true)} a call, 95% interval ${shown("latency_s", value("latency_low_s", row))} to ${shown("latency_s", value("latency_high_s", row), true)}.`));
    if (grade) {
      part.append(element("h4", {}, `Trust ${grade}`));
      part.append(reasons.length ? element("ul", {}, ...reasons.map((text) => element("li", {}, text))) : element("p", {}, "Nothing lowered the grade."));
    }
    drawSamples(part, row);
  } else part.append(element("p", { class: "failed" }, `${String(status).replaceAll("_", " ")}: ${value("message", row) || "no reason was recorded"}`));
  const groups = new Map();
  for (const column of page.columns) {
    const given = value(column.name, row);
    if (!isKnown(given) || ["trust", "trust_reasons", "message"].includes(column.name)) continue;
    groups.set(column.group, [...(groups.get(column.group) || []), column]);
  }
  const all = element("div", { class: "groups" });
  for (const [group, own] of groups) {
    const list = element("dl", { class: "facts" });
    for (const column of own) {
      const given = value(column.name, row);
      list.append(element("dt", { title: column.meaning }, column.name), element("dd", { title: exact(given) }, shown(column.name, given, true)));
    }
    all.append(element("div", {}, element("h4", {}, group === "machine" ? "State of the machine" : capital(group)), list));
  }
  part.append(all);
}

/** Samples over time, their distribution and the rounds. */
function drawSamples(part, row) {
  const rounds = page.samples[row];
  if (!rounds) {
    part.append(element("p", { class: "note" }, page.without_samples ? "This page holds too many cases to hold their samples too." : "The samples of this case do not lie beside its records."));
    return;
  }
  const unit = (value("latency_s", row) * 1e3) / page.parts;
  const points = [];
  rounds.forEach((own, index) => own.forEach((part_) => points.push({ round: String(index + 1), at: points.length + 1, ms: part_ * unit })));
  const colours = ["var(--cold)", "var(--warm)", "var(--good)", "var(--muted)", "var(--accent)"];
  const color = { field: "round", type: "nominal", title: "round", sort: null, scale: { range: colours }, legend: rounds.length > 1 ? { orient: "top" } : null };
  const every = page.every[row];
  const charts = [
    ["Samples in the order taken", `one point is the mean of some calls; line: the median${every ? `; one in ${every} is drawn` : ""}`, {
      layer: [
        { mark: { type: "point", filled: true, size: 22, opacity: 0.8 }, encoding: { x: { field: "at", type: "quantitative", title: "sample", axis: { grid: false } }, y: { field: "ms", type: "quantitative", title: "ms a call", scale: { zero: false } }, color, tooltip: [{ field: "round" }, { field: "ms", format: ".4~g", title: "ms a call" }] } },
        { data: { values: [{ median: value("latency_s", row) * 1e3 }] }, mark: { type: "rule", color: INK, strokeDash: [4, 3] }, encoding: { y: { field: "median", type: "quantitative" } } },
      ],
    }],
    ["Distribution", "how many of those samples took so long", {
      mark: { type: "bar", opacity: 0.85 },
      encoding: { x: { field: "ms", type: "quantitative", bin: { maxbins: 30 }, title: "ms a call", axis: { grid: false } }, y: { aggregate: "count", type: "quantitative", title: "samples", stack: true }, color },
    }],
  ];
  const medians = String(value("round_medians", row) || "").split(" ").filter(Boolean).map((text, index) => ({ round: String(index + 1), ms: Number(text) * 1e3 }));
  if (medians.length > 1) {
    charts.push(["Rounds", "each is a process of its own; point: its median, line: the 95% interval of all", {
      height: 26 * medians.length,
      layer: [
        { mark: { type: "point", filled: true, size: 90 }, encoding: { y: { field: "round", type: "nominal", sort: null }, x: { field: "ms", type: "quantitative", title: "ms a call", scale: { zero: false, padding: 10 } }, color: { ...color, legend: null }, tooltip: [{ field: "round" }, { field: "ms", format: ".4~g" }] } },
        { data: { values: [{ low: value("latency_low_s", row) * 1e3, high: value("latency_high_s", row) * 1e3 }] }, mark: { type: "rule", color: INK }, encoding: { x: { field: "low", type: "quantitative" }, x2: { field: "high" } } },
      ],
      values: medians,
    }]);
  }
  const grid = element("div", { class: "case-charts" });
  part.append(grid);
  for (const [title, note, { values, ...spec }] of charts) {
    const target = element("div", { class: "chart" });
    grid.append(element("figure", {}, element("figcaption", {}, title, element("small", {}, note)), target));
    draw(target, { data: { values: values || points }, height: 190, ...spec }, title);
  }
}

// Start

const hasCharts = page.metrics.length > 0 && rowNumbers.some(hasFigures);

followTheme();
nameColours();
byId("explore").hidden = !hasCharts;
if (hasCharts) drawChoices();
startTable();
startCases();
document.addEventListener("vega", async () => {
  if (hasCharts) await drawCharts();
  let width = innerWidth;
  addEventListener("resize", () => {
    if (hasCharts && innerWidth !== width) drawCharts();
    width = innerWidth;
  });
  document.documentElement.dataset.ready = "yes";
});
