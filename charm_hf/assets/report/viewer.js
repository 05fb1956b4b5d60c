"use strict";
/* One photo, large. `page.js` has the photos, and calls this once it has read them. */

const explanations = document.getElementById("explanations")?.textContent.split("\n") ?? [];
let viewed = 0;
let viewedFirst = 0;

function openViewer(position) {
  const index = shown[position];
  if (index === undefined) return;
  viewed = index;
  showViewed(photos[index]);
  if (byId("viewer").open) return;
  viewedFirst = index;
  byId("viewer").showModal();
}

function step(by) {
  const position = shown.indexOf(viewed) + by;
  if (position >= 0 && position < shown.length) openViewer(position);
}

function showViewed(photo) {
  const { score, spread } = describe(photo);
  byId("viewer-name").textContent = photo.path;
  byId("viewer-score").textContent = score;
  byId("viewer-spread").textContent = spread;
  showImage(photo);
  const facts = byId("viewer-facts");
  facts.replaceChildren();
  addFact(facts, "Rank", `${count(photo.index + 1)} of ${count(photos.length)}`);
  if (photo.normalized_score !== null) addFact(facts, "Normalised", photo.normalized_score.toFixed(3));
  if (photo.width !== null && photo.height !== null) addFact(facts, "Size", `${photo.width} × ${photo.height}`);
  if (photo.tokens !== null) addFact(facts, "Tokens", count(photo.tokens));
  for (const [name, value] of Object.entries(photo.extra ?? {})) addFact(facts, name, String(value));
  const svg = byId("viewer-distribution");
  byId("viewer-ratings").hidden = !photo.distribution;
  svg.replaceChildren();
  if (photo.distribution) {
    svg.setAttribute("viewBox", `0 0 ${photo.distribution.length * 10} 100`);
    drawBars(svg, photo.distribution, "bar-shown", (bin) => `bin ${bin + 1}: ${(100 * photo.distribution[bin]).toFixed(1)} %`);
  }
  const focused = document.activeElement;
  const size = seriesCounts.get(photo.series) ?? 1;
  byId("viewer-series").hidden = size < 2 || filters.series !== null;
  byId("viewer-series").textContent = `All ${size} of this moment`;
  byId("viewer-why").hidden = !report.explained.includes(photo.index);
  if (focused.hidden) byId("viewer-choose").focus(); // or the keys would go nowhere
  showPressed(false);
  const link = byId("viewer-original");
  link.parentElement.hidden = !photo.original;
  if (photo.original) link.href = photo.original;
  choiceChanged();
}

/** The thumbnail at once, and the original in its place if it lies where it lay when the report was made. */
function showImage(photo) {
  const image = byId("viewer-image");
  const small = thumbnail(photo);
  image.hidden = !small;
  byId("viewer-missing").hidden = Boolean(small);
  byId("viewer-missing").textContent = photo.note || "No preview";
  if (small) image.src = small;
  else image.removeAttribute("src");
  if (!photo.original) return;
  const full = new Image();
  full.src = photo.original;
  full.decode().then(
    () => {
      if (viewed !== photo.index || byId("viewer-why").getAttribute("aria-pressed") === "true") return;
      image.src = full.src;
      image.hidden = false;
      byId("viewer-missing").hidden = true;
    },
    () => undefined,
  );
}

/** The picture that says why the photo has its score, and back. */
function toggleExplanation() {
  const shows = byId("viewer-why").getAttribute("aria-pressed") === "true";
  showPressed(!shows);
  if (shows) showImage(photos[viewed]);
  else byId("viewer-image").src = `data:image/webp;base64,${explanations[report.explained.indexOf(viewed)]}`;
}

function showPressed(isPressed) {
  byId("viewer-why").setAttribute("aria-pressed", isPressed);
  byId("viewer-why").textContent = isPressed ? "Back to the photo" : "Why this score?";
}

function listenToViewer() {
  const viewer = byId("viewer");
  onClick("viewer-previous", () => step(-1));
  onClick("viewer-next", () => step(1));
  onClick("viewer-choose", () => toggle(viewed));
  onClick("viewer-close", () => viewer.close());
  onClick("viewer-series", () => showSeries(photos[viewed].series));
  onClick("viewer-why", toggleExplanation);
  onClick("help-open", () => byId("help").showModal());
  onClick("help-close", () => byId("help").close());
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
  viewer.addEventListener("close", () => viewed !== viewedFirst && sheet.moveTo(shown.indexOf(viewed)));
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else if (event.key === " " && event.target.tagName !== "BUTTON") toggle(viewed);
    else return;
    event.preventDefault();
  });
}
