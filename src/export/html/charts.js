/* Live bytes over time, and how large the blocks are. Both are drawn as SVG into
   elements of the page, which also lend the namespace. */

function shape(svg, tag, attributes, content) {
  const made = document.createElementNS(svg.namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (content !== undefined) made.textContent = content;
  svg.append(made);
  return made;
}

/* Round steps that divide 0..most into at most `wanted` parts. */
function ticks(most, wanted, steps) {
  const step = steps.find((one) => most / one <= wanted) || steps[steps.length - 1];
  const found = [];
  for (let at = 0; at <= most; at += step) found.push(at);
  return found;
}

const TIME_STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 3e4, 6e4, 12e4,
  3e5, 6e5, 12e5, 18e5, 36e5, 72e5, 144e5, 432e5, 864e5, 1728e5, 6048e5, 6048e6];

const BYTE_STEPS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].concat(
  [1, 2, 3, 4, 5, 6].flatMap((power) =>
    [1, 2, 5, 10, 20, 50, 100, 200, 500].map((n) => n * 1024 ** power),
  ),
);

class Timeline {
  constructor(svg, data, tip) {
    this.svg = svg;
    this.data = data;
    this.tip = tip;
    new ResizeObserver(() => this.draw()).observe(svg.parentElement);
    svg.addEventListener("pointermove", (event) => this.point(event));
    svg.addEventListener("pointerleave", () => this.unpoint());
  }

  draw() {
    const { svg, data } = this;
    const { at_ms: at, live_bytes: live } = data.timeline;
    const width = svg.parentElement.clientWidth;
    if (width < 100) return;
    const height = width < 500 ? 190 : 240;
    const edge = { left: 68, right: 14, top: 26, bottom: 26 };
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.style.height = height + "px";
    const { at_ms: peakAt, bytes: peak } = data.peak;
    const last = Math.max(data.duration_ms, at[at.length - 1], peakAt, 1);
    const most = Math.max(peak, ...live, 1);
    this.x = (ms) => edge.left + ((width - edge.left - edge.right) * ms) / last;
    this.y = (n) => height - edge.bottom - ((height - edge.top - edge.bottom) * n) / most;
    this.edge = edge;
    this.height = height;
    this.last = last;
    for (const n of ticks(most, 4, BYTE_STEPS)) {
      const y = this.y(n);
      shape(svg, "line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y, y2: y });
      shape(svg, "text", { x: edge.left - 8, y: y + 4, "text-anchor": "end" }, text.roundBytes(n));
    }
    for (const ms of ticks(last, width < 500 ? 4 : 8, TIME_STEPS)) {
      const x = this.x(ms);
      shape(svg, "line", { class: "notch", x1: x, x2: x, y1: this.y(0), y2: this.y(0) + 4 });
      const anchor = x > width - 40 ? "end" : "middle";
      shape(svg, "text", { x, y: height - 8, "text-anchor": anchor }, text.time(ms));
    }
    const points = at.map((ms, i) => this.x(ms).toFixed(1) + "," + this.y(live[i]).toFixed(1));
    const ends = [this.x(at[at.length - 1]), this.x(at[0])];
    const base = this.y(0).toFixed(1);
    const area = `M${points.join("L")}L${ends[0].toFixed(1)},${base}L${ends[1].toFixed(1)},${base}Z`;
    shape(svg, "path", { class: "area", d: area });
    shape(svg, "path", { class: "line", d: "M" + points.join("L") });
    /* One moment is no line. */
    if (at.length === 1) {
      shape(svg, "circle", { class: "peak", cx: this.x(at[0]), cy: this.y(live[0]), r: 3 });
    }
    if (peak > 0) this.markPeak(width, peakAt, peak);
    this.cursor = shape(svg, "line", { class: "cursor", y1: edge.top, y2: base, visibility: "hidden" });
    const what = at.length + " moments; the most at once was " + text.bytes(peak);
    svg.setAttribute("aria-label", `Live bytes over ${text.time(data.duration_ms)}: ${what}.`);
  }

  markPeak(width, peakAt, peak) {
    const { svg, data } = this;
    const x = this.x(peakAt);
    if (data.peak.error_bytes > 0) {
      const high = Math.max(this.y(peak + data.peak.error_bytes), 2);
      const low = this.y(Math.max(peak - data.peak.error_bytes, 0));
      shape(svg, "line", { class: "whisker", x1: x, x2: x, y1: high, y2: low });
    }
    shape(svg, "circle", { class: "peak", cx: x, cy: this.y(peak), r: 4 });
    const anchor = x < 150 ? "start" : x > width - 110 ? "end" : "middle";
    const words = "peak " + text.bytes(peak) + " at " + text.time(peakAt);
    const place = { class: "peak-label", x, y: this.y(peak) - 10, "text-anchor": anchor };
    shape(svg, "text", place, words);
  }

  point(event) {
    const { at_ms: at, live_bytes: live } = this.data.timeline;
    if (!this.cursor || at.length === 0) return;
    const bounds = this.svg.getBoundingClientRect();
    const share = (event.clientX - bounds.left - this.edge.left) /
      (bounds.width - this.edge.left - this.edge.right);
    const wanted = share * this.last;
    let low = 0;
    let high = at.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (at[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    if (low > 0 && wanted - at[low - 1] < at[low] - wanted) low -= 1;
    const x = this.x(at[low]);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    this.cursor.setAttribute("visibility", "visible");
    this.tip.show(event, (into) => {
      into.append(element("strong", "", text.bytes(live[low])));
      into.append(element("span", "", "alive in the process at " + text.time(at[low])));
    });
  }

  unpoint() {
    if (this.cursor) this.cursor.setAttribute("visibility", "hidden");
    this.tip.hide();
  }
}

/* Classes in order, and where sizes are left out between two of them the doubles
   that nobody asked for, so that the axis stays logarithmic. */
function sizeClasses(sizes) {
  const classes = [];
  sizes.min.forEach((min, i) => {
    const before = classes[classes.length - 1];
    if (before) {
      let from = before.max + 1;
      while (from > 1 && from * 2 <= min) {
        classes.push({ min: from, max: from * 2 - 1, blocks: 0 });
        from *= 2;
      }
    }
    classes.push({ min, max: sizes.max[i], blocks: sizes.blocks[i] });
  });
  return classes;
}

class Histogram {
  constructor(svg, sizes, tip, isSampled) {
    this.svg = svg;
    this.classes = sizeClasses(sizes);
    this.tip = tip;
    this.isSampled = isSampled;
    new ResizeObserver(() => this.draw()).observe(svg.parentElement);
    svg.addEventListener("pointerleave", () => this.tip.hide());
  }

  draw() {
    const { svg, classes } = this;
    const width = svg.parentElement.clientWidth;
    if (width < 100) return;
    const height = width < 500 ? 190 : 240;
    const edge = { left: 52, right: 14, top: 14, bottom: 26 };
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.style.height = height + "px";
    const most = Math.max(...classes.map((one) => one.blocks), 1);
    const all = classes.reduce((sum, one) => sum + one.blocks, 0);
    const y = (n) => height - edge.bottom - ((height - edge.top - edge.bottom) * n) / most;
    const steps = [];
    for (let power = 1; power < 1e19; power *= 10) steps.push(power, power * 2, power * 5);
    const short = new Intl.NumberFormat("en", { notation: "compact" });
    for (const n of ticks(most, 4, steps)) {
      shape(svg, "line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(n), y2: y(n) });
      shape(svg, "text", { x: edge.left - 8, y: y(n) + 4, "text-anchor": "end" }, short.format(n));
    }
    const step = (width - edge.left - edge.right) / Math.max(classes.length, 1);
    const every = Math.ceil(58 / step);
    classes.forEach((one, i) => {
      const x = edge.left + i * step;
      const isLast = x + step / 2 > width - 34;
      const words = { x: isLast ? width - 6 : x + step / 2, y: height - 8 };
      words["text-anchor"] = isLast ? "end" : "middle";
      if (i % every === 0) shape(svg, "text", words, text.roundBytes(one.min));
      const top = one.blocks > 0 ? Math.min(y(one.blocks), y(0) - 1) : y(0);
      const bar = { class: "bar", x: x + step * 0.08, width: step * 0.84, y: top, height: y(0) - top };
      shape(svg, "rect", bar);
      const whole = { class: "reach", x, width: step, y: edge.top, height: y(0) - edge.top };
      const reach = shape(svg, "rect", whole);
      shape(reach, "title", {}, this.range(one) + ": " + text.count(one.blocks));
      reach.addEventListener("pointermove", (event) => {
        this.tip.show(event, (into) => this.describe(into, one, all));
      });
    });
    svg.setAttribute("aria-label", `Sizes of ${text.count(all)} new blocks in ${classes.length} classes.`);
  }

  range(one) {
    if (one.min === one.max) return text.roundBytes(one.min);
    /* The last class has no end; a double cannot hold it either. */
    if (one.max >= 2 ** 53) return text.roundBytes(one.min) + " and more";
    return text.count(one.min) + " to " + text.count(one.max) + " bytes";
  }

  describe(into, one, all) {
    into.append(element("strong", "", this.range(one)));
    const about = this.isSampled ? "about " : "";
    into.append(element("span", "", about + text.count(one.blocks) + " new blocks"));
    into.append(element("span", "share", text.share(one.blocks, all) + " of all"));
  }
}
