// The timelines of the page of affect over time: draws them as SVG and answers mouse, wheel and keys. No library.
// Every text is inserted as text, never as HTML. Where rows are denser than pixels, only the smallest and the largest value
// of each pixel are drawn.
"use strict";
(() => {
const page = JSON.parse(document.getElementById("affect-data").textContent);
const LEFT = 44, RIGHT = 1, TOP = 12, HEIGHT = 186, LEAD = 14, APART = 8, AXIS = TOP + HEIGHT + APART + LEAD + 3, MAX_ROWS = 200, MIN_SPAN_S = 0.2;

function clock(time, digits = 1) {
  const scale = 10 ** digits, all = Math.round(Math.max(time, 0) * scale), seconds = (all % (60 * scale)) / scale;
  const minutes = Math.floor(all / (60 * scale)), hours = Math.floor(minutes / 60);
  const text = seconds.toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return hours ? `${hours}:${String(minutes % 60).padStart(2, "0")}:${text}` : `${minutes}:${text}`;
}
const formatted = value => page.probabilities ? `${(100 * value).toFixed(1)}%` : value.toFixed(3);

function element(parent, name, className, text) {
  const made = document.createElementNS(parent.namespaceURI, name);
  if (className) made.setAttribute("class", className);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}
function shape(parent, name, className, attributes) {
  const made = element(parent, name, className);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// The last index of ascending numbers that is not above a value, or -1.
function lastUpTo(numbers, value) {
  let low = 0, high = numbers.length;
  while (low < high) { const middle = (low + high) >> 1; if (numbers[middle] <= value) low = middle + 1; else high = middle; }
  return low - 1;
}

// The interval of time that each row covers, its centre, and the cumulative sums over labels, which bound the stacked areas.
function prepare(face) {
  const n = face.start.length, isFirst = new Uint8Array(n);
  face.firsts.forEach(row => { isFirst[row] = 1; });
  face.from = Float64Array.from(face.start);
  face.to = Float64Array.from(face.end);
  for (let i = 1; i < n; i++) if (!isFirst[i]) face.from[i] = face.to[i - 1] = (face.start[i] + face.end[i - 1]) / 2;
  for (let i = 0; i < n; i++) face.to[i] = Math.max(face.from[i], face.to[i]);
  face.middle = face.start.map((start, i) => (start + face.end[i]) / 2);
  face.runs = face.firsts.map((first, k) => [first, (face.firsts[k + 1] ?? n) - 1]);
  face.sums = [];
  if (page.probabilities) face.values.forEach((column, k) => {
    const below = face.sums[k - 1];
    face.sums.push(Float64Array.from(column, (value, i) => value + (below ? below[i] : 0)));
  });
}
function rowAt(face, time) {
  const row = lastUpTo(face.from, time);
  return row >= 0 && time <= face.to[row] ? row : -1;
}

// Points of one run without gaps; more than two rows per pixel are reduced to the smallest and the largest value.
function points(face, column, [first, last], x, y, view) {
  const a = Math.max(first, lastUpTo(face.from, view.from) - 1), b = Math.min(last, lastUpTo(face.from, view.to) + 2);
  const found = a === first ? [[x(face.from[first]), y(column[first])]] : [];
  if (b - a < 2 * (x(view.to) - x(view.from))) {
    for (let i = a; i <= b; i++) found.push([x(face.middle[i]), y(column[i])]);
  } else {
    for (let i = a; i <= b;) {
      const pixel = Math.floor(x(face.middle[i]));
      let low = i, high = i;
      for (; i <= b && Math.floor(x(face.middle[i])) <= pixel; i++) {
        if (column[i] < column[low]) low = i;
        if (column[i] > column[high]) high = i;
      }
      for (const row of low < high ? [low, high] : [high, low]) found.push([x(face.middle[row]), y(column[row])]);
    }
  }
  if (b === last) found.push([x(face.to[last]), y(column[last])]);
  return found;
}
const path = list => list.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L");

// Intervals of the view with the same most probable label: [from, to, label]; sampled once per pixel where rows are denser.
function topLabels(face, view, width) {
  const a = Math.max(lastUpTo(face.from, view.from), 0), b = lastUpTo(face.from, view.to), found = [];
  const add = (from, to, row) => {
    let best = 0;
    face.values.forEach((column, k) => { if (column[row] > face.values[best][row]) best = k; });
    const before = found[found.length - 1];
    if (before && before[2] === best && from - before[1] < 1e-6) before[1] = to; else found.push([from, to, best]);
  };
  const step = (view.to - view.from) / width;
  if (b - a < 2 * width) for (let i = a; i <= b; i++) add(face.from[i], face.to[i], i);
  else for (let pixel = 0; pixel < width; pixel++) {
    const row = rowAt(face, view.from + (pixel + 0.5) * step);
    if (row >= 0) add(view.from + pixel * step, view.from + (pixel + 1) * step, row);
  }
  return found;
}

function ticks(from, to, number) {
  const steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000];
  const step = steps.find(size => (to - from) / size <= number) ?? Math.ceil((to - from) / number / 36000) * 36000;
  const found = [];
  for (let k = Math.ceil(from / step - 1e-9); k * step <= to + 1e-9; k++) found.push(k * step);
  return [found, step < 0.1 ? 2 : step < 1 ? 1 : 0];
}

// Round values between two, at most `number` intervals apart.
function levelsOf(from, to, number) {
  const least = (to - from) / number, power = 10 ** Math.floor(Math.log10(least)), found = [];
  const step = [1, 2, 5, 10].map(part => part * power).find(size => size >= least * (1 - 1e-9));
  for (let k = Math.ceil(from / step - 1e-9); k * step <= to + 1e-9 * step; k++) found.push(k * step);
  return found;
}

// The timeline of one face.
class Lane {
  constructor(video, face) {
    const part = document.getElementById(face.id);
    prepare(face);
    Object.assign(this, { video, face, part, solo: -1, dragFrom: null, width: 1 });
    this.box = part.querySelector(".lane");
    this.svg = part.querySelector("svg");
    this.pictures = [...part.querySelectorAll(".strip img")].map(image => ({ image, time: Number(image.dataset.time) }));
    this.cursor = element(this.box, "div", "cursor");
    this.tip = element(this.box, "div", "tip");
    this.whole = part.querySelector(".whole");
    this.rows = part.querySelector(".rows");
    this.cursor.hidden = this.tip.hidden = true;
    this.tell(this.video.from, "no time chosen");
    this.box.classList.add("live");
    this.listen();
  }

  x(time) { return (time - this.video.view.from) / (this.video.view.to - this.video.view.from) * this.width; }
  timeOf(event) {
    const { from, to } = this.video.view, px = event.clientX - this.svg.getBoundingClientRect().left - LEFT;
    return from + Math.min(Math.max(px / this.width, 0), 1) * (to - from);
  }

  draw() {
    this.width = Math.max(this.svg.clientWidth - LEFT - RIGHT, 50);  // read once, because reading it forces a layout
    const { face, svg, width, solo } = this, view = this.video.view, [low, high] = page.range;
    const x = time => this.x(time), y = value => (high - value) / (high - low) * HEIGHT;
    svg.replaceChildren();
    const plot = shape(svg, "svg", "inner", { x: LEFT, y: TOP, width, height: HEIGHT });
    shape(plot, "rect", "gap", { width, height: HEIGHT });
    const visible = face.runs.filter(([a, b]) => face.to[b] >= view.from && face.from[a] <= view.to);
    for (const [a, b] of visible) {
      shape(plot, "rect", "covered", { x: x(face.from[a]), width: Math.max(x(face.to[b]) - x(face.from[a]), 0.5), height: HEIGHT });
    }
    this.labelGaps(plot, x);
    const levels = page.probabilities ? [0, 0.5, 1] : levelsOf(low, high, 7);
    if (!page.probabilities) for (const level of levels) shape(plot, "line", "rule", { x2: width, y1: y(level), y2: y(level) });
    const columns = !page.probabilities ? face.values : solo < 0 ? face.sums : [];
    if (page.probabilities) {  // the largest sum first; each area is partly covered by the next
      const dense = visible.reduce((sum, [a, b]) => sum + b - a, 0) * (view.to - view.from) > width * (this.video.to - this.video.from);
      const area = (column, k) => shape(plot, "path", dense ? "area" : "area apart", { fill: page.colors[k], d: visible.map(run => {
        const list = points(face, column, run, x, y, view);
        return `M${list[0][0].toFixed(1)} ${HEIGHT}L${path(list)}L${list[list.length - 1][0].toFixed(1)} ${HEIGHT}Z`;
      }).join("") });
      for (let k = columns.length - 1; k >= 0; k--) area(columns[k], k);
      if (solo >= 0) area(face.values[solo], solo);
      shape(plot, "line", "over", { x2: width, y1: y(0.5), y2: y(0.5) });
    } else columns.forEach((column, k) => shape(plot, "path", "line", {
      stroke: page.colors[k], "stroke-opacity": solo < 0 || solo === k ? 1 : 0.15,
      d: visible.map(run => `M${path(points(face, column, run, x, y, view))}`).join(""),
    }));
    const number = value => page.probabilities ? `${100 * value}%` : String(Number(value.toPrecision(6)));
    for (const level of levels) shape(svg, "text", "", { x: LEFT - 6, y: TOP + y(level) + 3, "text-anchor": "end" }).textContent = number(level);
    if (page.probabilities) {
      const lead = shape(svg, "svg", "lead", { x: LEFT, y: TOP + HEIGHT + APART, width, height: LEAD });
      shape(lead, "rect", "gap", { width, height: LEAD });
      for (const [from, to, k] of topLabels(face, view, width)) {
        shape(lead, "rect", "", { x: x(from), width: Math.max(x(to) - x(from), 0.5), height: LEAD, fill: page.colors[k],
          "fill-opacity": solo < 0 || solo === k ? 1 : 0.15 });
      }
      shape(svg, "text", "", { x: LEFT - 6, y: TOP + HEIGHT + APART + 11, "text-anchor": "end" }).textContent = "top";
    }
    for (const time of face.changes) {
      const px = x(time) + LEFT;
      if (px >= LEFT && px <= LEFT + width) shape(svg, "path", "change", { d: `M${px - 4.5} 1h9l-4.5 8z` });
    }
    const [times, digits] = ticks(view.from, view.to, width / 90);
    for (const time of times) {
      const px = LEFT + x(time), side = px < LEFT + 15 ? "start" : px > LEFT + width - 18 ? "end" : "middle";
      shape(svg, "line", "rule", { x1: px, x2: px, y1: AXIS, y2: AXIS + 5 });
      shape(svg, "text", "", { x: px, y: AXIS + 19, "text-anchor": side }).textContent = clock(time, digits);
    }
    this.whole.hidden = view.from <= this.video.from && view.to >= this.video.to;
    this.arrangePictures();
    if (this.rows.open) this.listRows();
    this.place();
  }

  labelGaps(plot, x) {
    const { runs, from, to } = this.face, view = this.video.view;
    const borders = [view.from, ...runs.flatMap(([a, b]) => [from[a], to[b]]), view.to];
    for (let k = 0; k < borders.length; k += 2) {
      const left = Math.max(x(borders[k]), 0), right = Math.min(x(borders[k + 1]), this.width);
      if (right - left > 56) shape(plot, "text", "", { x: (left + right) / 2, y: HEIGHT / 2 - 6, "text-anchor": "middle" }).textContent = "no face";
    }
  }

  // Slots of equal width from left to right, each with the picture nearest to its middle, if there is one in its interval.
  arrangePictures() {
    if (!this.pictures.length) return;
    const { from, to } = this.video.view, first = this.pictures[0].image;
    const aspect = first.naturalHeight ? first.naturalWidth / first.naturalHeight : 1;
    const number = Math.max(1, Math.floor(this.width / (74 * aspect))), size = this.width / number, step = (to - from) / number;
    for (const { image } of this.pictures) image.style.display = "none";
    for (let k = 0; k < number; k++) {
      const middle = from + (k + 0.5) * step, near = this.nearest(middle);
      if (Math.abs(near.time - middle) > 0.5 * step) continue;
      Object.assign(near.image.style, { display: "block", left: `${k * size}px`, width: `${size - 1}px` });
    }
  }
  nearest(time) {
    return this.pictures.reduce((best, one) => Math.abs(one.time - time) < Math.abs(best.time - time) ? one : best);
  }

  // Place the cursor of this lane, and show its values if this is the lane that the reader points at.
  place() {
    const { time, lane, pinned } = this.video.cursor, outside = time === null || this.x(time) < 0 || this.x(time) > this.width;
    this.cursor.hidden = outside;
    this.tip.hidden = outside || lane !== this;
    if (outside) return;
    const px = LEFT + this.x(time);
    this.cursor.style.left = `${px - 1}px`;
    this.cursor.classList.toggle("pinned", pinned);
    const row = rowAt(this.face, time);
    this.tell(time, row < 0 ? `${clock(time)}, no face` :
      `${clock(time)}, ${this.ranked(row).map(([k, value]) => `${page.names[k]} ${formatted(value)}`).join(", ")}`);
    if (this.tip.hidden) return;
    this.fillTip(time, row);
    const right = px > LEFT + this.width / 2;
    Object.assign(this.tip.style, right ? { left: "auto", right: `${this.svg.clientWidth - px + 14}px` } : { left: `${px + 14}px`, right: "auto" });
  }
  // What a screen reader says of the cursor.
  tell(time, words) {
    const said = { min: this.video.from.toFixed(2), max: this.video.to.toFixed(2), now: time.toFixed(2), text: words };
    for (const [name, value] of Object.entries(said)) this.svg.setAttribute(`aria-value${name}`, value);
  }
  ranked(row) {
    const list = this.face.values.map((column, k) => [k, column[row]]);
    return page.probabilities ? list.sort((a, b) => b[1] - a[1]) : list;
  }
  fillTip(time, row) {
    const { tip, face } = this;
    tip.replaceChildren();
    if (this.pictures.length && row >= 0) {
      const near = this.nearest(time);
      element(tip, "img").src = near.image.src;
      tip.lastChild.alt = "";
      element(tip, "div", "small", `picture at ${clock(near.time)}`);
    }
    element(tip, "div", "when", clock(time));
    if (row < 0) { element(tip, "div", "small", "no face here"); return; }
    const confidence = face.confidence[row] ?? null;
    element(tip, "div", "small", `window ${clock(face.start[row], 2)} to ${clock(face.end[row], 2)}` +
      (confidence === null ? "" : ` · detector ${confidence.toFixed(2)}`));
    this.ranked(row).forEach(([k, value], place) => {
      const line = element(tip, "div", page.probabilities ? (place ? "value" : "value top") : "value plain");
      if (!page.probabilities) element(line, "span", "swatch").style.background = page.colors[k];
      element(line, "b", "", page.names[k]);
      if (page.probabilities) {
        const bar = element(element(line, "span", "bar"), "i");
        bar.style.background = page.colors[k];
        bar.style.width = `${100 * value}%`;
      }
      element(line, "span", "", formatted(value));
    });
  }

  listen() {
    const { box, svg, video } = this;
    box.addEventListener("pointermove", event => {
      if (!video.cursor.pinned && this.dragFrom === null) video.point(this.timeOf(event), this);
    });
    box.addEventListener("pointerleave", () => { if (!video.cursor.pinned) video.point(null, null); });
    box.addEventListener("pointerdown", event => { if (event.button === 0) this.drag(event); });
    box.addEventListener("wheel", event => {
      const span = video.view.to - video.view.from;
      if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        video.zoom(this.timeOf(event), Math.exp(Math.max(-1, Math.min(1, event.deltaY / 100))));
      } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
        event.preventDefault();
        video.show(video.view.from + span * (event.deltaX || event.deltaY) / 800, span);
      }
    }, { passive: false });
    svg.addEventListener("keydown", event => this.key(event));
    svg.addEventListener("blur", () => { if (!video.cursor.pinned) video.point(null, null); });
    this.whole.addEventListener("click", () => video.show(video.from, video.to - video.from));
    const labels = [...this.part.querySelectorAll(".legend [data-label]")];
    for (const button of labels) button.addEventListener("click", () => {
      const label = Number(button.dataset.label);
      this.solo = this.solo === label ? -1 : label;
      for (const other of labels) other.setAttribute("aria-pressed", Number(other.dataset.label) === this.solo);
      this.draw();
    });
    for (const button of this.part.querySelectorAll("[data-goto]")) button.addEventListener("click", () => {
      const time = Number(button.dataset.goto), span = video.view.to - video.view.from;
      if (time < video.view.from || time > video.view.to) video.show(time - span / 2, span);
      video.point(time, this, true);
      box.scrollIntoView({ block: "nearest" });
    });
    this.rows.addEventListener("toggle", () => { if (this.rows.open) this.listRows(); });
    this.rows.querySelector(".save").addEventListener("click", () => this.save());
  }

  drag(event) {
    const start = event.clientX, video = this.video;
    let area = null;
    this.dragFrom = this.timeOf(event);
    const span = moved => [this.dragFrom, this.timeOf(moved)].sort((a, b) => a - b);
    const move = moved => {
      if (Math.abs(moved.clientX - start) < 5 && !area) return;
      area ??= shape(this.svg, "rect", "drag", { y: TOP, height: HEIGHT });
      const [from, to] = span(moved);
      area.setAttribute("x", LEFT + this.x(from));
      area.setAttribute("width", this.x(to) - this.x(from));
    };
    const stop = up => {
      window.removeEventListener("pointermove", move);
      window.removeEventListener("pointerup", stop);
      window.removeEventListener("pointercancel", stop);
      const [from, to] = span(up), at = this.dragFrom, { cursor } = video;
      this.dragFrom = null;
      if (area) area.remove();
      if (up.type === "pointercancel") return;
      if (area) video.show(from, to - from);
      else if (cursor.pinned && cursor.lane === this && Math.abs(this.x(cursor.time) - this.x(at)) < 5) video.point(at, this, false);
      else video.point(at, this, true);
    };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", stop);
    window.addEventListener("pointercancel", stop);
  }

  key(event) {
    const { video, face } = this, { cursor, view } = video, last = face.start.length - 1;
    const now = cursor.time ?? Math.max(view.from, face.from[0]);
    const step = by => {
      const near = lastUpTo(face.from, now), row = by < 0 && rowAt(face, now) < 0 ? near + by + 1 : near + by;
      to(cursor.time === null ? near : row);
    };
    const to = row => {
      const time = face.middle[Math.min(Math.max(row, 0), last)], span = view.to - view.from;
      if (time < view.from || time > view.to) video.show(time - span / 2, span);
      video.point(time, this, cursor.pinned);
      tellPlayer(time);
    };
    const actions = {
      ArrowRight: () => step(event.shiftKey ? 10 : 1), ArrowLeft: () => step(event.shiftKey ? -10 : -1),
      Home: () => to(0), End: () => to(last),
      "+": () => video.zoom(now, 0.5), "=": () => video.zoom(now, 0.5), "-": () => video.zoom(now, 2),
      "0": () => video.show(video.from, video.to - video.from),
      Enter: () => video.point(now, this, !cursor.pinned), Escape: () => video.point(null, null, false),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  cells(row) {
    const { face } = this;
    return [face.start[row], face.end[row], ...face.values.map(column => column[row]), ...(face.confidence.length ? [face.confidence[row]] : [])];
  }
  get header() {
    const values = page.names.map(name => page.probabilities ? `prob_${name}` : name);
    return ["start_s", "end_s", ...values, ...(this.face.confidence.length ? ["confidence"] : [])];
  }
  listRows() {
    const { face, rows } = this, { from, to } = this.video.view, place = rows.querySelector(".scroll");
    const inView = [];
    for (let i = Math.max(lastUpTo(face.from, from), 0); i < face.start.length && face.from[i] <= to; i++) if (face.to[i] >= from) inView.push(i);
    place.replaceChildren();
    const table = element(place, "table"), listed = inView.slice(0, MAX_ROWS);
    element(table, "caption", "", `${listed.length} of the ${inView.length} rows in view`);
    const head = element(element(table, "thead"), "tr"), body = element(table, "tbody");
    for (const name of this.header) element(head, "th", "number", name);
    for (const row of listed) {
      const line = element(body, "tr");
      this.cells(row).forEach((value, k) => element(line, "td", "number", value === null ? "–" : value.toFixed(k < 2 ? 2 : 4)));
    }
  }
  save() {
    const quoted = text => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    const lines = [this.header.map(quoted).join(",")];
    for (let row = 0; row < this.face.start.length; row++) lines.push(this.cells(row).map(value => value ?? "").join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = `${this.face.id}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
}

// The timelines of a video share the zoomed interval and the position of the cursor.
class Video {
  constructor({ faces }) {
    this.from = Math.min(0, ...faces.map(face => face.start[0]));
    this.to = Math.max(...faces.map(face => face.end.reduce((a, b) => Math.max(a, b))));
    if (!(this.to > this.from)) this.to = this.from + 1;
    this.view = { from: this.from, to: this.to };
    this.cursor = { time: null, lane: null, pinned: false };
    this.lanes = faces.map(face => new Lane(this, face));
    this.due = false;
    this.draw();
    if (this.lanes.length) new ResizeObserver(() => this.draw()).observe(this.lanes[0].box);
  }
  draw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => { this.due = false; for (const lane of this.lanes) lane.draw(); });
  }
  show(from, span) {
    span = Math.min(Math.max(span, MIN_SPAN_S), this.to - this.from);
    from = Math.min(Math.max(from, this.from), this.to - span);
    this.view = { from, to: from + span };
    this.draw();
  }
  zoom(around, factor) {
    const { from, to } = this.view;
    this.show(around - (around - from) * factor, (to - from) * factor);
  }
  point(time, lane, pinned = this.cursor.pinned) {
    this.cursor = { time, lane, pinned };
    for (const one of this.lanes) one.place();
    if (pinned && lane && time !== null) tellPlayer(time);
  }
  // The time of the player, if the page lies beside one.
  follow(time) {
    const { from, to } = this.view;
    if (time < from || time > to) this.show(time, to - from);
    this.point(time, this.cursor.lane, false);
  }
}

// Within a page of the same site that plays the video, times go both ways: `{ time }` from the player moves the cursor, and
// one from here, of a point that the reader has chosen, moves the player.
const player = window.parent === window ? null : window.parent;
document.documentElement.classList.toggle("beside", player !== null);
const tellPlayer = time => player?.postMessage({ time }, window.location.origin);

const shown = page.videos.filter(video => video.faces.length).map(video => new Video(video));
if (player) window.addEventListener("message", event => {
  if (event.source !== player || event.origin !== window.location.origin || !Number.isFinite(event.data?.time)) return;
  for (const video of shown) video.follow(event.data.time);
});
})();
