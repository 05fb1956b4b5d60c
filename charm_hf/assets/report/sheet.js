"use strict";
/* The contact sheet: a grid of which only the rows near the window exist, so that 10,000 photos scroll like ten. */

const CARD_GAP = 14;
const CAPTION_HEIGHT = 46;
const ROWS_AROUND = 3;
// A card may be this much narrower than asked for where that saves half a window of empty margin.
const SHRINK = 0.88;

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** The picture of a photo, or a sentence where there is none. */
function picture(photo, source, loading = "lazy") {
  const mat = element("div", "mat");
  if (!source) {
    mat.append(element("span", "missing", photo.note || "No preview"));
    return mat;
  }
  const image = element("img");
  image.alt = "";
  image.decoding = "async";
  image.loading = loading;
  image.draggable = false;
  image.src = source;
  image.addEventListener("error", () => mat.replaceChildren(element("span", "missing", "No preview")), { once: true });
  mat.append(image);
  return mat;
}

class ContactSheet {
  /**
   * @param options.photos all photos; `show` gives which of them, in what order
   * @param options.describe photo → {score, spread, label, stack}
   * @param options.source photo → URL of its thumbnail
   * @param options.isChosen index → whether the photo is chosen
   * @param options.onToggle (position, extend) → choose or take back
   * @param options.onOpen position → look at the photo
   * @param options.onStack position → show the series that the photo is of
   */
  constructor(scroller, grid, options) {
    Object.assign(this, { scroller, grid, ...options });
    this.indices = [];
    this.active = 0;
    this.cell = 190;
    this.rows = new Map();
    scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(grid);
    grid.addEventListener("keydown", (event) => this.onKey(event));
    grid.addEventListener("click", (event) => this.onClick(event));
    grid.addEventListener("focusin", (event) => {
      const card = event.target.closest(".card");
      if (card) this.setActive(Number(card.dataset.position));
    });
  }

  /** Show these photos: from the top, or (`keep`) where the window is, the active one staying active if still there. */
  show(indices, keep) {
    const before = this.indices[this.active];
    this.indices = indices;
    this.active = keep ? Math.max(0, indices.indexOf(before)) : 0;
    if (!keep) this.scroller.scrollTop = 0;
    this.grid.hidden = indices.length === 0;
    this.layout(true);
  }

  resize(cell) {
    this.cell = cell;
    this.layout(true);
  }

  layout(rebuild = false) {
    const columns = Math.max(1, Math.floor((this.grid.clientWidth + CARD_GAP) / (this.cell * SHRINK + CARD_GAP)));
    if (columns !== this.columns || rebuild) {
      const focused = this.grid.contains(document.activeElement);
      this.columns = columns;
      this.rowHeight = this.cell + CAPTION_HEIGHT + CARD_GAP;
      const rowCount = Math.ceil(this.indices.length / columns);
      this.grid.style.height = `${rowCount * this.rowHeight}px`;
      this.grid.setAttribute("aria-rowcount", rowCount);
      this.grid.setAttribute("aria-colcount", columns);
      this.grid.replaceChildren();
      this.rows.clear();
      this.draw();
      if (focused) this.card(this.active)?.focus({ preventScroll: true });
      return;
    }
    this.draw();
  }

  /** Make the rows near the window, and the one that holds the active card so that it can keep the focus. */
  draw() {
    if (!this.columns) return;
    const rowCount = Math.ceil(this.indices.length / this.columns);
    const top = this.scroller.scrollTop - this.grid.offsetTop;
    const first = Math.max(0, Math.floor(top / this.rowHeight) - ROWS_AROUND);
    const last = Math.min(rowCount - 1, Math.ceil((top + this.scroller.clientHeight) / this.rowHeight) + ROWS_AROUND);
    const wanted = new Set();
    for (let row = first; row <= last; row++) wanted.add(row);
    if (this.indices.length) wanted.add(Math.floor(this.active / this.columns));
    for (const [row, node] of this.rows) {
      if (!wanted.has(row)) {
        node.remove();
        this.rows.delete(row);
      }
    }
    for (const row of [...wanted].sort((a, b) => a - b)) {
      if (!this.rows.has(row)) this.addRow(row);
    }
  }

  addRow(row) {
    const node = element("div", "row");
    node.setAttribute("role", "row");
    node.setAttribute("aria-rowindex", row + 1);
    node.style.transform = `translateY(${row * this.rowHeight}px)`;
    node.style.gridTemplateColumns = `repeat(${this.columns}, minmax(0, 1fr))`;
    const start = row * this.columns;
    const end = Math.min(start + this.columns, this.indices.length);
    for (let position = start; position < end; position++) node.append(this.makeCard(position));
    const next = [...this.rows.keys()].filter((other) => other > row).sort((a, b) => a - b)[0];
    this.grid.insertBefore(node, next === undefined ? null : this.rows.get(next));
    this.rows.set(row, node);
  }

  makeCard(position) {
    const index = this.indices[position];
    const photo = this.photos[index];
    const { score, spread, label, stack } = this.describe(photo);
    const card = element("div", "card");
    card.dataset.position = position;
    card.setAttribute("role", "gridcell");
    card.setAttribute("aria-colindex", (position % this.columns) + 1);
    card.setAttribute("aria-label", label);
    card.tabIndex = position === this.active ? 0 : -1;
    card.title = photo.path;
    const mat = picture(photo, this.source(photo));
    mat.style.height = `${this.cell}px`;
    const caption = element("div", "caption");
    caption.append(element("span", "score", score), element("span", "spread", spread), element("span", "name", photo.name));
    const tick = element("span", "tick");
    tick.setAttribute("aria-hidden", "true");
    card.append(mat, caption, tick);
    if (stack) {
      card.classList.add("stacked");
      const badge = element("span", "stack", stack);
      badge.title = "Photos of one moment: show all of them";
      card.append(badge);
    }
    this.mark(card, index);
    return card;
  }

  mark(card, index) {
    const chosen = this.isChosen(index);
    card.classList.toggle("chosen", chosen);
    card.setAttribute("aria-selected", chosen);
  }

  /** Bring the ticks of all cards that exist up to date. */
  refreshMarks() {
    for (const card of this.grid.querySelectorAll(".card")) this.mark(card, this.indices[card.dataset.position]);
  }

  card(position) {
    return this.grid.querySelector(`.card[data-position="${position}"]`);
  }

  setActive(position) {
    const before = this.card(this.active);
    if (before) before.tabIndex = -1;
    this.active = position;
    const now = this.card(position);
    if (now) now.tabIndex = 0;
  }

  /** Move the focus, scrolling as little as needed. */
  moveTo(position) {
    if (!this.indices.length) return;
    this.setActive(Math.min(Math.max(position, 0), this.indices.length - 1));
    const top = this.grid.offsetTop + Math.floor(this.active / this.columns) * this.rowHeight;
    const bottom = top + this.rowHeight;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top - CARD_GAP;
    else if (bottom > this.scroller.scrollTop + this.scroller.clientHeight) {
      this.scroller.scrollTop = bottom - this.scroller.clientHeight;
    }
    this.draw();
    this.card(this.active)?.focus({ preventScroll: true });
  }

  onKey(event) {
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.rowHeight)) * this.columns;
    const targets = {
      ArrowLeft: this.active - 1,
      ArrowRight: this.active + 1,
      ArrowUp: this.active >= this.columns ? this.active - this.columns : this.active,
      ArrowDown: this.active + this.columns,
      Home: 0,
      End: this.indices.length - 1,
      PageUp: this.active - page,
      PageDown: this.active + page,
    };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in targets) this.moveTo(targets[event.key]);
    else if (event.key === " ") this.onToggle(this.active, event.shiftKey);
    else if (event.key === "Enter") this.onOpen(this.active);
    else return;
    event.preventDefault();
  }

  onClick(event) {
    const card = event.target.closest(".card");
    if (!card) return;
    const position = Number(card.dataset.position);
    this.moveTo(position);
    if (event.target.closest(".stack")) this.onStack(position);
    else if (event.target.closest(".tick") || event.shiftKey || event.ctrlKey || event.metaKey) {
      this.onToggle(position, event.shiftKey);
    } else this.onOpen(position);
  }
}
