"use strict";
/* What the page knows and what can be computed from it. Nothing here changes the document. */

const THUMBNAIL_PREFIX = "data:image/jpeg;base64,";

/** The report as written by Python: photos in order of their score (best first), failures, folders. */
function readReport() {
  const data = JSON.parse(document.getElementById("data").textContent);
  data.photos = data.rows.map((values, index) => {
    const photo = { index };
    data.columns.forEach((column, position) => (photo[column] = values[position]));
    photo.folderPath = data.folders[photo.folder];
    photo.searchText = searchable(`${photo.path} ${photo.name}`);
    return photo;
  });
  return data;
}

/** Thumbnails lie in text blocks of `chunkSize` base64 lines each; a block is split when first needed. */
function thumbnailReader(chunkSize) {
  const blocks = document.querySelectorAll("script.thumbnails");
  const lines = new Map();
  return (photo) => {
    if (photo.link) return photo.link;
    if (!blocks.length) return "";
    const block = Math.floor(photo.index / chunkSize);
    if (!lines.has(block)) lines.set(block, blocks[block].textContent.split("\n"));
    const line = lines.get(block)[photo.index % chunkSize];
    return line ? THUMBNAIL_PREFIX + line : "";
  };
}

function searchable(text) {
  return text.normalize("NFC").toLocaleLowerCase();
}

/** Every filter with its value at the start: all photos, of each moment the best. A control sets one with `data-filter`. */
const UNFILTERED = { query: "", folder: "", low: -Infinity, high: Infinity, onlyChosen: false, stacked: true, series: null };

/** Indices of the photos that pass every filter, in the given order; of each series the best alone, or one series. */
function filterPhotos(photos, order, { query, folder, low, high, onlyChosen, stacked, series }, chosen) {
  const words = searchable(query).split(/\s+/).filter(Boolean);
  const inside = folder === "" ? null : folder === "/" ? "/" : folder + "/";
  const passing = order.filter((index) => {
    const photo = photos[index];
    return (
      (series === null || photo.series === series) &&
      photo.score >= low &&
      photo.score <= high &&
      (!onlyChosen || chosen.has(index)) &&
      (inside === null || photo.folderPath === folder || photo.folderPath.startsWith(inside)) &&
      words.every((word) => photo.searchText.includes(word))
    );
  });
  if (!stacked || series !== null) return passing;
  const best = new Map();
  for (const index of passing) best.set(photos[index].series, Math.min(index, best.get(photos[index].series) ?? index));
  return passing.filter((index) => photos[index].series === null || best.get(photos[index].series) === index);
}

/** Series → how many photos it has. */
function countSeries(photos) {
  const counts = new Map();
  for (const { series } of photos) if (series !== null) counts.set(series, (counts.get(series) ?? 0) + 1);
  return counts;
}

const compareNames = new Intl.Collator(undefined, { numeric: true }).compare;

/** All indices in the order of a sort key; ties keep the order of the score. */
function sortPhotos(photos, key) {
  const order = photos.map((photo) => photo.index);
  const descending = (value) => (a, b) => (value(photos[b]) ?? -1) - (value(photos[a]) ?? -1);
  if (key === "worst") order.reverse();
  if (key === "name") order.sort((a, b) => compareNames(photos[a].path, photos[b].path));
  if (key === "spread") order.sort(descending((photo) => photo.std));
  if (key === "pixels") order.sort(descending((photo) => photo.width * photo.height));
  return order;
}

/** Each folder that holds a photo, and each of its ancestors below what all share: [path, depth, count]. */
function folderTree(photos) {
  const counts = new Map();
  for (const photo of photos) {
    for (const folder of ancestors(photo.folderPath)) counts.set(folder, (counts.get(folder) ?? 0) + 1);
  }
  const top = [...counts].filter(([, count]) => count === photos.length).sort((a, b) => b[0].length - a[0].length)[0];
  const shared = top ? top[0] : "";
  const base = shared === "" ? 0 : ancestors(shared).length;
  return [...counts]
    .filter(([folder]) => folder !== "" && (shared === "" || folder.length > shared.length))
    .map(([folder, count]) => [folder, ancestors(folder).length - base - 1, count])
    .sort((a, b) => compareNames(a[0].replaceAll("/", "\u0001"), b[0].replaceAll("/", "\u0001")));
}

/** `a/b/c` gives `a`, `a/b`, `a/b/c`; `/a` gives `/`, `/a`; no folder gives none. */
function ancestors(folder) {
  if (folder === "") return [];
  const parts = folder.split("/");
  const paths = parts.map((_, end) => parts.slice(0, end + 1).join("/") || "/");
  return paths.filter((path, position) => position === 0 || path !== "/");
}

/** Bin edges over [low, high] and, for each set of indices, the counts in each bin. */
function histogram(photos, indices, low, high, bins) {
  const counts = new Array(bins).fill(0);
  const width = (high - low) / bins;
  for (const index of indices) {
    const bin = Math.floor((photos[index].score - low) / width);
    counts[Math.min(Math.max(bin, 0), bins - 1)] += 1;
  }
  return counts;
}

function quantile(sortedDescending, fraction) {
  const place = (sortedDescending.length - 1) * (1 - fraction);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sortedDescending.length - 1);
  const weight = place - below;
  return sortedDescending[below] * (1 - weight) + sortedDescending[above] * weight;
}

/** Digits after the point that tell scores of this range apart. */
function decimalsFor(span) {
  return span <= 2 ? 3 : span <= 20 ? 2 : 1;
}

/** One path a line; a line break inside a path is written as an escape, so that one line stays one photo. */
function toTextList(photos) {
  const escapes = { "\n": "\\n", "\r": "\\r" };
  return photos.map((photo) => photo.path.replace(/[\n\r]/g, (found) => escapes[found]) + "\n").join("");
}

/**
 * The chosen rows as CSV (RFC 4180), with the columns of the table that the report was made from. No cell is what a
 * spreadsheet takes for a formula; a path stays one of the same file.
 */
function toCsv(photos, columns) {
  const quote = (value, column) => {
    let text = value === null || value === undefined ? "" : Array.isArray(value) ? JSON.stringify(value) : String(value);
    if (/^[=+\-@\t\r\n＝＋－＠]/.test(text) && Number.isNaN(Number(text))) text = (column === "path" ? "./" : "'") + text;
    return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  const cell = (photo, column) => (photo.extra && column in photo.extra ? photo.extra[column] : photo[column]);
  const lines = photos.map((photo) => columns.map((column) => quote(cell(photo, column), column)).join(","));
  return [columns.map((column) => quote(column)).join(","), ...lines].join("\r\n") + "\r\n";
}
