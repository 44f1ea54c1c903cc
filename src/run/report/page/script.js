// Every line after this script adds a picture or the run's totals. Pictures are kept as data; only the
// rows in sight are in the document.
const pictures = new Map();
let totals = null, shown = [], current = -1, timer = 0;

function add(picture) {
  pictures.set(picture.result.image, picture);
  loaded();
}
function total(counts) {
  totals = counts;
  loaded();
}
// A line has done its work when it ran: its text need not stay in memory a second time.
function loaded() {
  document.currentScript?.remove();
  later(document.readyState === "loading" ? 200 : 0);
}
function later(delay) {
  timer ||= setTimeout(() => { timer = 0; refresh(); }, delay);
}

const $ = id => document.getElementById(id);
function element(tag, name, ...children) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...children.filter(child => child != null));
  return made;
}
const digits = (x, n) => typeof x === "number" ? x.toFixed(n) : "–";
const decibels = r => r.psnr === null ? "∞" : digits(r.psnr, 1);

// What a picture's labels say; `right` is null where the true label or the other is unknown.
const right = (r, side) =>
  r.label == null || r[side + "_label"] == null ? null : r[side + "_label"] === r.label;
const verdictOf = r => r.error != null ? "failed" : r.verdict ?? "";
const verdicts = ["adversarial", "clean", "undecided", "failed"];
const labelFilters = {
  "": ["any", () => true],
  "output-right": ["output right", r => right(r, "output") === true],
  "output-wrong": ["output wrong", r => right(r, "output") === false],
  "input-right": ["input right", r => right(r, "input") === true],
  "input-wrong": ["input wrong", r => right(r, "input") === false],
  "repaired": ["repaired (wrong, then right)", r => right(r, "input") === false && right(r, "output") === true],
  "broken": ["broken (right, then wrong)", r => right(r, "input") === true && right(r, "output") === false],
  "changed": ["changed", r => r.output_label != null && r.output_label !== r.input_label],
};
const sorts = {
  "": ["the run's order", null],
  "name": ["name", r => r.image],
  "verdict": ["verdict", r => verdictOf(r) || null],
  "score": ["score", r => r.score],
  "psnr": ["PSNR", r => r.psnr === null ? Infinity : r.psnr],
  "ssim": ["SSIM", r => r.ssim],
  "label": ["true label", r => r.label],
  "input_label": ["input label", r => r.input_label],
  "output_label": ["output label", r => r.output_label],
  "confidence": ["output confidence", r => r.output_confidence],
  "seconds": ["seconds", r => r.seconds],
};

// The view, as the address keeps it.
const view = { verdict: "", labels: "", text: "", sort: "", order: "", picture: "" };
function readAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  for (const key in view) view[key] = said.get(key) ?? "";
  if (!verdicts.includes(view.verdict)) view.verdict = "";
  if (!Object.hasOwn(labelFilters, view.labels)) view.labels = "";
  if (!Object.hasOwn(sorts, view.sort)) view.sort = "";
  $("labels").value = view.labels;
  $("sort").value = view.sort;
  $("text").value = view.text;
}
function writeAddress() {
  const said = new URLSearchParams(Object.entries(view).filter(([, value]) => value));
  history.replaceState(null, "", "#" + said);
}
function choose(key, value) {
  view[key] = value;
  writeAddress();
  refresh();
}

// Filters, sorts and counts, then draws.
function refresh() {
  const all = [...pictures.values()];
  const part = view.text.toLowerCase();
  const found = picture => !part || picture.result.image.toLowerCase().includes(part)
    || Object.values(picture.names).some(name => name.toLowerCase().includes(part));
  const ofLabels = all.filter(p => labelFilters[view.labels][1](p.result) && found(p));
  const focused = shown[current];
  shown = ofLabels.filter(p => !view.verdict || verdictOf(p.result) === view.verdict);
  const key = sorts[view.sort][1];
  if (key) {
    const sign = view.order === "down" ? -1 : 1;
    shown.sort(({ result: a }, { result: b }) => {
      const x = key(a), y = key(b);
      if (x == null || y == null) return (x == null) - (y == null);
      return sign * (x < y ? -1 : x > y ? 1 : 0);
    });
  } else if (view.order === "down") {
    shown.reverse();
  }
  current = shown.indexOf(focused);
  summarize(all.map(p => p.result));
  showVerdicts(ofLabels.map(p => verdictOf(p.result)));
  $("order").textContent = view.order === "down" ? "↓ falling" : "↑ rising";
  rows.forEach(row => row.remove());
  rows.clear();
  draw();
  if (view.picture && !$("detail").open) open(shown.findIndex(p => p.result.image === view.picture));
}
function summarize(results) {
  const facts = [["pictures shown", `${shown.length} of ${results.length}`]];
  for (const side of ["input", "output"]) {
    const judged = results.filter(r => right(r, side) !== null);
    if (!judged.length) continue;
    const n = judged.filter(r => right(r, side)).length;
    facts.push([`${side} label right`, `${n} of ${judged.length} (${digits(100 * n / judged.length, 1)}%)`]);
  }
  if (totals) facts.push(["in the run", totals.resumed + totals.done + totals.failed]);
  $("summary").replaceChildren(...facts.map(([name, value]) =>
    element("span", "", name + " ", element("b", "", value))));
}
function showVerdicts(found) {
  const choices = [["", "all", found.length]];
  for (const verdict of verdicts) {
    const n = found.filter(v => v === verdict).length;
    if (n || verdict === view.verdict) choices.push([verdict, verdict, n]);
  }
  const focused = document.activeElement?.dataset.verdict;
  $("verdicts").replaceChildren(...choices.map(([value, name, n]) => {
    const button = element("button", "", name + " ", element("small", "", n));
    button.type = "button";
    button.dataset.verdict = value;
    button.setAttribute("aria-pressed", value === view.verdict);
    button.onclick = () => choose("verdict", value);
    return button;
  }));
  if (focused !== undefined) $("verdicts").querySelector(`[data-verdict="${focused}"]`)?.focus();
}

// Rows have one height, so which are in sight follows from the scroll position alone.
const rows = new Map();
const rowHeight = () => parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));
function draw() {
  const height = rowHeight(), list = $("list");
  list.style.height = shown.length * height + "px";
  const top = -list.getBoundingClientRect().top;
  const first = Math.max(0, Math.floor(top / height) - 2);
  const last = Math.min(shown.length, Math.ceil((top + innerHeight) / height) + 2);
  for (const [index, row] of rows) {
    if ((index < first || index >= last) && index !== current) {
      row.remove();
      rows.delete(index);
    }
  }
  for (let index = first; index < last; index++) {
    if (!rows.has(index)) insert(index, height);
  }
  // One row is in the tab order; arrow keys reach the others.
  for (const [index, row] of rows) row.tabIndex = index === (current < 0 ? first : current) ? 0 : -1;
}
function insert(index, height) {
  const row = makeRow(shown[index]);
  row.style.top = index * height + "px";
  row.setAttribute("aria-posinset", index + 1);
  row.setAttribute("aria-setsize", shown.length);
  row.onclick = () => open(index);
  row.onfocus = () => { current = index; };
  rows.set(index, row);
  $("list").append(row);
  const plot = row.querySelector("canvas");
  if (plot) drawTrajectories(plot, shown[index], false);
}
function makeRow(picture) {
  const row = element("article", "", images(picture), facts(picture));
  row.setAttribute("role", "listitem");
  if (picture.trajectories) row.append(plotOf(picture));
  return row;
}
function images(picture) {
  const figures = ["input", "output", "difference"].filter(name => picture[name]).map(name => {
    const img = element("img");
    img.src = picture[name];
    img.alt = `${name} of ${picture.result.image}`;
    return element("figure", "", img, element("figcaption", "", name));
  });
  return element("div", "pictures", ...figures);
}
function facts(picture) {
  const r = picture.result;
  // A long name loses its middle, never its end.
  const letters = [...r.image], end = Math.max(0, letters.length - 20);
  const part = (from, to) => element("span", "", letters.slice(from, to).join(""));
  const name = element("p", "name", part(0, end), part(end));
  name.title = r.image;
  if (r.error != null) {
    return element("div", "facts", name, element("p", "", badge(r)), element("p", "error", r.error));
  }
  const score = r.score == null ? null : ` score ${digits(r.score, 3)}`;
  return element("div", "facts", name,
    r.verdict ? element("p", "", badge(r), score) : null,
    r.label == null ? null : labeled(picture, "true", r.label, null),
    r.input_label == null ? null : labeled(picture, "input", r.input_label, r.input_confidence),
    r.output_label == null ? null : labeled(picture, "output", r.output_label, r.output_confidence),
    element("p", "numbers", `PSNR ${decibels(r)} dB · SSIM ${digits(r.ssim, 3)}`,
      r.linf == null ? null : ` · L∞ ${digits(255 * r.linf, 1)}/255`,
      r.seconds == null ? null : ` · ${digits(r.seconds, 2)} s`));
}
const badge = r => element("span", "badge " + verdictOf(r), verdictOf(r));
function labeled(picture, side, label, confidence) {
  const sure = confidence == null ? null : element("small", "", ` ${digits(100 * confidence, 1)}%`);
  const name = picture.names[label];
  const shown = element("span", "key " + roleOf(picture.result, label), name ? `${label} ${name}` : `${label}`);
  const line = element("p", "label", element("span", "", side), shown, sure);
  line.title = line.textContent;
  return line;
}
function roleOf(r, label) {
  return label === r.label ? "true" : label === r.input_label ? "input"
    : label === r.recovered_label ? "recovered" : "other";
}

// One picture, large.
function open(index) {
  const picture = shown[index];
  if (!picture) return;
  current = index;
  view.picture = picture.result.image;
  writeAddress();
  $("detail-name").textContent = `${index + 1} of ${shown.length}: ${picture.result.image}`;
  $("detail-body").replaceChildren(element("div", "overview", images(picture), facts(picture)));
  if (!$("detail").open) $("detail").showModal();
  if (picture.trajectories) {
    const plot = plotOf(picture);
    $("detail-body").append(plot, element("div", "paths", pathTable(picture.trajectories)));
    drawTrajectories(plot, picture, true);
  }
}
function pathTable({ paths }) {
  const columns = [
    ["seed", p => p.seed ?? "consensus"], ["last crossing (iteration)", p => p.crossing ?? "–"],
    ["α", p => digits(p.alpha, 3)], ["on the segment", p => digits(p.boundary, 3)],
    ["push β", p => digits(p.push, 3)], ["margin", p => digits(p.margin, 2)],
    ["PSNR (dB)", p => digits(p.psnr.at(-1) / 10, 1)],
  ];
  const cells = (tag, of) => element("tr", "", ...columns.map(column => element(tag, "", String(of(column)))));
  return element("table", "", cells("th", ([title]) => title), ...paths.map(p => cells("td", ([, value]) => value(p))));
}
$("detail").onclose = () => {
  view.picture = "";
  writeAddress();
  focusRow(current);
};
function focusRow(index) {
  if (index < 0 || index >= shown.length) return;
  const height = rowHeight();
  const top = $("list").getBoundingClientRect().top + index * height;
  const bar = $("controls").getBoundingClientRect().height;
  if (top < bar) scrollBy(0, top - bar);
  else if (top + height > innerHeight) scrollBy(0, top + height - innerHeight);
  current = index;
  draw();
  rows.get(index).focus({ preventScroll: true });
}
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { ArrowDown: 1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
  const to = Math.min(Math.max(current + step, 0), shown.length - 1);
  if ($("detail").open) {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") open(to);
  } else if (document.activeElement.closest("article")) {
    if (event.key === "Enter") open(current);
    else if (step && !event.key.startsWith("ArrowL") && !event.key.startsWith("ArrowR")) focusRow(to);
    else return;
    event.preventDefault();
  } else if (event.key === "/" && !document.activeElement.matches("input, select")) {
    $("text").focus();
    event.preventDefault();
  }
});

for (const [id, choices] of [["labels", labelFilters], ["sort", sorts]]) {
  for (const value in choices) $(id).append(new Option(choices[value][0], value));
  $(id).onchange = () => choose(id, $(id).value);
}
$("text").oninput = () => choose("text", $("text").value);
$("order").onclick = () => choose("order", view.order === "down" ? "" : "down");
for (const [role, name] of [["true", "true label"], ["input", "input label"], ["recovered", "recovered label"], ["other", "other label"]]) {
  $("legend").append(element("span", "key " + role, name));
}
addEventListener("hashchange", () => { readAddress(); refresh(); });
addEventListener("scroll", draw, { passive: true });
addEventListener("resize", () => later(50));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => later(0));
readAddress();
refresh();
