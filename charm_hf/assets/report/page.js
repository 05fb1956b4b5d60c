"use strict";
/* Wires the rows to the document: filters, strips, choice, export, theme. */

const STRIP_LENGTH = 6;
const SLIDER_STEPS = 200;
const ERRORS_AT_ONCE = 200;
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const report = readReport();
const { photos } = report;
const thumbnail = thumbnailReader(report.chunk);
const allScores = photos.map((photo) => photo.score);
const extent = photos.length ? [allScores[allScores.length - 1], allScores[0]] : [0, 1];
const [lowest, highest] = extent[0] < extent[1] ? extent : [extent[0] - 0.5, extent[1] + 0.5];
const HISTOGRAM_BINS = Math.min(40, Math.max(10, Math.ceil(3 * Math.cbrt(photos.length))));
const decimals = decimalsFor(highest - lowest);
const format = (value) => value.toFixed(decimals);
const count = (value) => value.toLocaleString("en");

const chosen = new Set(remembered("chosen", []).filter((index) => index in photos));
const filters = { ...UNFILTERED };
const seriesCounts = countSeries(photos);
let order = sortPhotos(photos, "best");
let shown = order;
let anchor = 0;

/* A page opened from a file may be denied storage: then nothing is remembered. */
function remembered(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`charm-report/${report.id}/${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`charm-report/${report.id}/${name}`, JSON.stringify(value));
  } catch {
    return;
  }
}

const sheet = new ContactSheet(byId("scroller"), byId("grid"), {
  photos,
  describe,
  source: thumbnail,
  isChosen: (index) => chosen.has(index),
  onToggle: toggleAt,
  onOpen: openViewer,
  onStack: (position) => showSeries(photos[shown[position]].series),
});

function describe(photo) {
  const spread = photo.std === null ? "" : `± ${format(photo.std)}`;
  const label = `${photo.path}, score ${format(photo.score)} ${spread}, rank ${photo.index + 1} of ${photos.length}`;
  const size = seriesCounts.get(photo.series) ?? 1;
  const stack = size > 1 && filters.stacked && filters.series === null ? `▤ ${size}` : "";
  return { score: format(photo.score), spread, label: stack ? `${label}, best of ${size} of one moment` : label, stack };
}

/* ---------- filters ---------- */

const filterControls = document.querySelectorAll("[data-filter]");
const valueOf = (control) => (control.type === "checkbox" ? "checked" : "value");

function update(keep = false) {
  shown = filterPhotos(photos, order, filters, chosen);
  sheet.show(shown, keep);
  anchor = 0;
  const filtered = shown.length !== photos.length;
  byId("counts").textContent = (filtered ? `${count(shown.length)} of ` : "") + `${count(photos.length)} photos`;
  byId("empty").hidden = shown.length > 0;
  byId("one-series").hidden = filters.series === null;
  drawHistogram();
  drawStrips();
}

/** A bound within a rounded digit of the extreme counts as none, so that the extreme photo itself stays in. */
function setScores(low, high) {
  const rounding = 0.51 * 10 ** -decimals;
  filters.low = low <= lowest + rounding ? -Infinity : low;
  filters.high = high >= highest - rounding ? Infinity : high;
  showScores();
  update();
}

function showScores() {
  const low = Math.max(filters.low, lowest);
  const high = Math.min(filters.high, highest);
  const percent = (value) => (100 * (value - lowest)) / (highest - lowest);
  for (const [id, value] of [["low", low], ["high", high]]) {
    byId(id).value = format(value);
    byId(`${id}-slider`).value = Math.round((SLIDER_STEPS * percent(value)) / 100);
    byId(`${id}-slider`).setAttribute("aria-valuetext", format(value));
  }
  byId("range-fill").style.left = `${percent(low)}%`;
  byId("range-fill").style.right = `${100 - percent(high)}%`;
}

/** The photos of one moment, or (`null`) all again. */
function showSeries(series) {
  filters.series = series;
  byId("viewer").close();
  update();
}

function resetFilters() {
  Object.assign(filters, UNFILTERED);
  for (const control of filterControls) control[valueOf(control)] = UNFILTERED[control.dataset.filter];
  showScores();
  update();
}

function svgElement(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function drawBars(svg, heights, className, titles) {
  const top = Math.max(...heights, 1e-12);
  heights.forEach((height, position) => {
    const size = height > 0 ? Math.max((100 * height) / top, 1.5) : 0;
    const bar = svgElement("rect", { x: position * 10 + 0.7, y: 100 - size, width: 8.6, height: size, class: className });
    const title = svgElement("title", {});
    title.textContent = titles(position);
    bar.append(title);
    svg.append(bar);
  });
}

function drawHistogram() {
  const svg = byId("histogram");
  const all = histogram(photos, sortedByScore, lowest, highest, HISTOGRAM_BINS);
  const now = histogram(photos, shown, lowest, highest, HISTOGRAM_BINS);
  const step = (highest - lowest) / HISTOGRAM_BINS;
  const between = (bin) => `${format(lowest + bin * step)} to ${format(lowest + (bin + 1) * step)}`;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${HISTOGRAM_BINS * 10} 100`);
  svg.setAttribute("aria-label", `Histogram of ${photos.length} scores from ${format(lowest)} to ${format(highest)}`);
  const top = Math.max(...all, 1);
  drawBars(svg, all, "bar-all", (bin) => `${between(bin)}: ${all[bin]} photos`);
  now.forEach((height, bin) => {
    const size = height > 0 ? Math.max((100 * height) / top, 1.5) : 0;
    svg.append(svgElement("rect", { x: bin * 10 + 0.7, y: 100 - size, width: 8.6, height: size, class: "bar-shown" }));
    const target = svgElement("rect", { x: bin * 10, y: 0, width: 10, height: 100, class: "bar-target" });
    const title = svgElement("title", {});
    title.textContent = `${between(bin)}: ${now[bin]} of ${all[bin]} photos`;
    target.append(title);
    target.addEventListener("click", () => setScores(lowest + bin * step, lowest + (bin + 1) * step));
    svg.append(target);
  });
}

function addFact(list, name, value) {
  list.append(element("dt", "", name), element("dd", "", value));
}

function drawFacts() {
  const facts = byId("facts");
  if (!photos.length) return;
  const mean = allScores.reduce((sum, score) => sum + score, 0) / allScores.length;
  addFact(facts, "Median", format(quantile(allScores, 0.5)));
  addFact(facts, "Mean", format(mean));
  addFact(facts, "Best 10 %", `≥ ${format(quantile(allScores, 0.9))}`);
  addFact(facts, "Worst 10 %", `≤ ${format(quantile(allScores, 0.1))}`);
}

function drawStrips() {
  const ranked = [...shown].sort((a, b) => a - b);
  byId("strips").hidden = ranked.length < 2 * STRIP_LENGTH;
  if (byId("strips").hidden) return;
  fillStrip(byId("best"), ranked.slice(0, STRIP_LENGTH));
  fillStrip(byId("worst"), ranked.slice(-STRIP_LENGTH).reverse());
}

function fillStrip(strip, indices) {
  strip.replaceChildren(
    ...indices.map((index) => {
      const button = element("button", "strip-card");
      button.type = "button";
      button.title = photos[index].path;
      button.setAttribute("aria-label", describe(photos[index]).label);
      button.append(picture(photos[index], thumbnail(photos[index])), element("span", "score", format(photos[index].score)));
      button.addEventListener("click", () => openViewer(shown.indexOf(index)));
      return button;
    }),
  );
}

function fillFolders() {
  const all = element("option", "", `All folders (${count(photos.length)})`);
  all.value = "";
  const options = folderTree(photos).map(([folder, depth, number]) => {
    const name = folder === "/" ? "/" : folder.split("/").pop();
    const option = element("option", "", "\u00a0\u00a0".repeat(depth + 1) + `${name} (${count(number)})`);
    option.value = folder;
    return option;
  });
  byId("folder").replaceChildren(all, ...options);
}

/* ---------- choice and export ---------- */

function toggleAt(position, extend) {
  const [from, to] = [Math.min(anchor, position), Math.max(anchor, position)];
  anchor = position;
  if (extend) choose(shown.slice(from, to + 1));
  else toggle(shown[position]);
}

function toggle(index) {
  if (!chosen.delete(index)) chosen.add(index);
  choiceChanged();
}

function choose(indices) {
  for (const index of indices) chosen.add(index);
  choiceChanged();
}

function choiceChanged() {
  byId("chosen-count").textContent = count(chosen.size);
  for (const id of ["export-text", "export-csv", "choose-none"]) byId(id).disabled = chosen.size === 0;
  remember("chosen", [...chosen]);
  if (filters.onlyChosen) update(true);
  else sheet.refreshMarks();
  const isChosen = chosen.has(viewed);
  byId("viewer-choose").setAttribute("aria-pressed", isChosen);
  byId("viewer-choose").textContent = isChosen ? "Chosen ✓" : "Choose";
}

function chosenPhotos() {
  return order.filter((index) => chosen.has(index)).map((index) => photos[index]);
}

function download(name, type, text) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/* ---------- failures ---------- */

function drawErrors(from = 0) {
  byId("errors").hidden = report.errors.length === 0;
  const number = report.errors.length;
  byId("errors-summary").textContent = `${count(number)} ${number === 1 ? "file" : "files"} could not be scored`;
  for (const [path, reason] of report.errors.slice(from, from + ERRORS_AT_ONCE)) {
    const row = element("tr");
    row.append(element("td", "path", path), element("td", "", reason));
    byId("error-rows").append(row);
  }
  byId("more-errors").hidden = from + ERRORS_AT_ONCE >= number;
}

function linkErrors() {
  if (!report.errors.length) return;
  const link = element("a", "", `${count(report.errors.length)} failed`);
  link.href = "#errors";
  link.addEventListener("click", showErrors);
  byId("failed").append(" · ", link);
}

function showErrors(event) {
  event.preventDefault();
  byId("errors").open = true;
  if (narrow.matches) byId("side").open = false;
  byId("errors").scrollIntoView();
  byId("errors-summary").focus();
}

/* ---------- print ---------- */

/** Everything that is shown, in one flow: of the contact sheet only the rows near the window exist. */
function fillPrint() {
  const sheets = element("div", "print-sheet");
  for (const index of shown) {
    const { score, spread } = describe(photos[index]);
    const card = element("figure");
    const caption = element("figcaption");
    caption.append(element("b", "", score), ` ${spread} `, element("span", "", photos[index].name));
    card.append(picture(photos[index], thumbnail(photos[index]), "eager"), caption);
    sheets.append(card);
  }
  const failures = element("ul");
  for (const [path, reason] of report.errors) failures.append(element("li", "", `${path}: ${reason}`));
  const heading = report.errors.length ? [element("h2", "", byId("errors-summary").textContent), failures] : [];
  byId("print").replaceChildren(element("h1", "", document.title), element("p", "", byId("counts").textContent), sheets, ...heading);
  return Promise.all([...sheets.querySelectorAll("img")].map((image) => image.decode().catch(() => undefined)));
}

/* ---------- theme ---------- */

const narrow = matchMedia("(max-width: 800px)");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : prefersDark.matches;
}

function showTheme() {
  byId("theme").setAttribute("aria-pressed", isDark());
}

function toggleTheme() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  remember("theme", document.documentElement.dataset.theme);
  showTheme();
}

/* ---------- start ---------- */

const sortedByScore = photos.map((photo) => photo.index);

function onInput(id, action, type = "input") {
  byId(id).addEventListener(type, (event) => action(event.target));
}

function onClick(id, action) {
  byId(id).addEventListener("click", action);
}

function listenToFilters() {
  for (const control of filterControls) {
    control.addEventListener("input", () => {
      filters[control.dataset.filter] = control[valueOf(control)];
      update();
    });
  }
  onInput("sort", (input) => {
    order = sortPhotos(photos, input.value);
    update();
  });
  const sliderScore = (input) => lowest + (Number(input.value) / SLIDER_STEPS) * (highest - lowest);
  onInput("low-slider", (input) => setScores(sliderScore(input), Math.max(sliderScore(input), filters.high)));
  onInput("high-slider", (input) => setScores(Math.min(sliderScore(input), filters.low), sliderScore(input)));
  onInput("low", (input) => setScores(input.value === "" ? -Infinity : Number(input.value), filters.high), "change");
  onInput("high", (input) => setScores(filters.low, input.value === "" ? Infinity : Number(input.value)), "change");
  onInput("size", (input) => sheet.resize(Number(input.value)));
  onClick("one-series", () => showSeries(null));
  onClick("reset", resetFilters);
  onClick("side-close", () => (byId("side").open = false));
  onClick("empty-reset", resetFilters);
}

function listenToChoice() {
  const number = () => Math.max(1, Math.floor(Number(byId("choose-number").value)) || 1);
  const ranked = () => [...shown].sort((a, b) => a - b);
  onClick("choose-best", () => choose(ranked().slice(0, number())));
  onClick("choose-worst", () => choose(ranked().slice(-number())));
  onClick("choose-shown", () => choose(shown));
  onClick("choose-none", () => {
    chosen.clear();
    choiceChanged();
  });
  onClick("export-text", () => download("chosen.txt", "text/plain", toTextList(chosenPhotos())));
  onClick("export-csv", () => download("chosen.csv", "text/csv", toCsv(chosenPhotos(), report.exported)));
  onClick("export-errors", () => {
    const rows = report.errors.map(([path, error]) => ({ path, error }));
    download("failed.csv", "text/csv", toCsv(rows, ["path", "error"]));
  });
  onClick("print-shown", () => fillPrint().then(() => window.print()));
  addEventListener("beforeprint", fillPrint);
  addEventListener("afterprint", () => byId("print").replaceChildren());
  onClick("more-errors", () => drawErrors(byId("error-rows").childElementCount));
}

function listenToKeys() {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, dialog");
    if (event.key === "Escape" && event.target.id === "search" && filters.query) {
      byId("search").value = filters.query = "";
      update();
    } else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "a" && !typing) choose(shown);
    else if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
    else if (event.key === "/") byId("search").focus();
    else if (event.key === "?") byId("help").showModal();
    else if (event.target === document.body && event.key === "ArrowDown") sheet.moveTo(sheet.active);
    else return;
    event.preventDefault();
  });
}

function start() {
  const saved = remembered("theme", null);
  if (saved) document.documentElement.dataset.theme = saved;
  for (const id of ["low", "high"]) {
    byId(id).step = "any";
    Object.assign(byId(`${id}-slider`), { min: 0, max: SLIDER_STEPS, step: 1 });
  }
  byId("loading").remove();
  byId("app").hidden = false;
  byId("side").open = !narrow.matches;
  narrow.addEventListener("change", () => (byId("side").open = !narrow.matches));
  listenToFilters();
  listenToChoice();
  listenToViewer();
  listenToKeys();
  onClick("theme", toggleTheme);
  onClick("skip", () => sheet.moveTo(sheet.active));
  prefersDark.addEventListener("change", showTheme);
  fillFolders();
  byId("stacked-label").hidden = seriesCounts.size === 0;
  byId("spread-legend").hidden = photos.every((photo) => photo.std === null);
  drawFacts();
  drawErrors();
  linkErrors();
  showTheme();
  showScores();
  choiceChanged();
  update();
}

start();
