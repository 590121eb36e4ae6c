/* The flame graph. Tens of thousands of frames are no task for elements: it
   draws on a canvas what is wide enough to be seen, and only the rows that are
   scrolled into view. */

const ROW = 20;
const NARROWEST = 1.5;

class Flame {
  constructor(model, parts) {
    this.model = model;
    this.parts = parts;
    this.measure = MEASURES[0];
    this.isInverted = false;
    this.isUpwards = false;
    this.matches = null;
    this.zoomed = 0;
    this.selected = null;
    this.hovered = null;
    this.rows = [];
    this.palette = null;
    this.listen();
  }

  get tree() {
    return this.model.tree(this.isInverted);
  }

  get values() {
    return this.tree.values(this.measure);
  }

  listen() {
    const { canvas, scroll } = this.parts;
    new ResizeObserver(() => this.layOut()).observe(scroll);
    scroll.addEventListener("scroll", () => this.draw());
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch") this.hover(this.at(event), event);
    });
    canvas.addEventListener("pointerleave", () => this.hover(null));
    canvas.addEventListener("click", (event) => {
      const box = this.at(event);
      if (!box) return;
      /* A finger cannot hover: its first tap tells, its second zooms. */
      const isTouch = event.pointerType === "touch";
      if (isTouch && this.selected !== box.node) this.select(box.node);
      else this.zoom(box.node);
      if (isTouch) this.hover(box, event);
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
  }

  show(change) {
    const wasInverted = this.isInverted;
    Object.assign(this, change);
    if (wasInverted !== this.isInverted) {
      this.zoomed = 0;
      this.selected = null;
    }
    this.hovered = null;
    /* A frame with none of the new measure has no width to zoom to. */
    while (this.zoomed > 0 && !(this.values[this.zoomed] > 0)) {
      this.zoomed = this.tree.parent[this.zoomed];
    }
    this.layOut();
    if (this.isUpwards) this.parts.scroll.scrollTop = this.parts.scroll.scrollHeight;
    this.parts.changed();
  }

  zoom(node) {
    this.zoomed = node;
    this.selected = node;
    this.show({});
    this.reveal(node);
  }

  reset() {
    this.selected = null;
    this.zoomed = 0;
    this.show({ matches: null });
  }

  select(node) {
    this.selected = node;
    this.reveal(node);
    this.draw();
    this.parts.changed();
  }

  /* The boxes of each row, from left to right. Above the zoomed frame stand its
     callers, as wide as the graph. */
  layOut() {
    const { tree, values } = this;
    const width = this.parts.scroll.clientWidth;
    const path = [];
    for (let node = this.zoomed; node > 0; node = tree.parent[node]) path.push(node);
    path.push(0);
    this.rows = path.reverse().map((node) => [{ node, x: 0, width, rest: 0 }]);
    if (!(values[0] > 0)) this.rows = [];
    let row = this.rows[this.rows.length - 1];
    while (row) {
      const below = [];
      for (const box of row) if (!box.rest) this.divide(box, below);
      row = below.length > 0 ? below : null;
      if (row) this.rows.push(row);
    }
    this.parts.space.style.height = this.rows.length * ROW + "px";
    this.width = width;
    this.draw();
  }

  /* Puts the callees of a box into the row below it; those that are too narrow
     to be seen become one box, so that they do not look like nothing. */
  divide(box, below) {
    const { values } = this;
    const scale = box.width / values[box.node];
    const children = this.tree.children(box.node, values);
    let x = box.x;
    for (let i = 0; i < children.length; i += 1) {
      const width = values[children[i]] * scale;
      if (width < NARROWEST) {
        let sum = 0;
        for (let j = i; j < children.length; j += 1) sum += values[children[j]];
        const rest = children.length - i;
        if (sum * scale >= 1) below.push({ node: box.node, x, width: sum * scale, rest, sum });
        return;
      }
      below.push({ node: children[i], x, width, rest: 0 });
      x += width;
    }
  }

  top(row) {
    return (this.isUpwards ? this.rows.length - 1 - row : row) * ROW;
  }

  draw() {
    const { canvas, scroll } = this.parts;
    const height = Math.min(scroll.clientHeight, Math.max(this.rows.length * ROW, ROW));
    const density = window.devicePixelRatio;
    const wanted = [Math.round(this.width * density), Math.round(height * density)];
    if (canvas.width !== wanted[0] || canvas.height !== wanted[1]) {
      [canvas.width, canvas.height] = wanted;
      canvas.style.height = height + "px";
    }
    if (!this.palette) this.palette = this.readPalette();
    const pen = canvas.getContext("2d");
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.fillStyle = this.palette.page;
    pen.fillRect(0, 0, this.width, height);
    pen.font = this.palette.font;
    pen.textBaseline = "middle";
    this.letter = pen.measureText("m").width;
    for (let row = 0; row < this.rows.length; row += 1) {
      const y = this.top(row) - scroll.scrollTop;
      if (y > -ROW && y < height) for (const box of this.rows[row]) this.drawBox(pen, box, y);
    }
  }

  drawBox(pen, box, y) {
    const { palette, model } = this;
    const frame = this.tree.frame[box.node];
    const origin = box.rest ? "rest" : model.origin(frame);
    const isMatch = this.matches && !box.rest && frame >= 0 && this.matches[frame];
    const faded = this.matches && !isMatch;
    const width = Math.max(box.width - (box.width > 4 ? 1 : 0.4), 0.6);
    pen.globalAlpha = faded ? 0.35 : 1;
    pen.fillStyle = isMatch ? palette.match : palette[origin];
    pen.fillRect(box.x, y, width, ROW - 1);
    pen.globalAlpha = 1;
    const isAbove = box.node !== this.zoomed && this.tree.isWithin(this.zoomed, box.node);
    if (isAbove && !faded && !isMatch) {
      pen.fillStyle = palette.veil;
      pen.fillRect(box.x, y, width, ROW - 1);
    }
    const focus = this.selected === box.node && !box.rest;
    const over = this.hovered && this.hovered.node === box.node && this.hovered.rest === box.rest;
    if (over || focus) {
      pen.strokeStyle = palette.ink;
      pen.lineWidth = focus ? 2 : 1;
      pen.strokeRect(box.x + 1, y + 1, Math.max(width - 2, 0.5), ROW - 3);
    }
    const fits = Math.floor((width - 8) / this.letter);
    if (fits < 3) return;
    pen.fillStyle = isMatch ? palette.onMatch : palette.ink;
    pen.fillText(this.label(box, frame, fits), box.x + 4, y + ROW / 2);
  }

  label(box, frame, fits) {
    let label = box.rest ? text.count(box.rest) + " smaller" : this.model.name(frame);
    if (label.length > fits && !box.rest) label = this.model.shortName(frame);
    return label.length > fits ? label.slice(0, fits - 1) + "…" : label;
  }

  readPalette() {
    const style = getComputedStyle(this.parts.canvas);
    const palette = { font: "11.5px " + style.getPropertyValue("--mono") };
    const names = [...ORIGINS, "root", "rest", "match", "page", "ink", "veil"];
    for (const name of names) palette[name] = style.getPropertyValue("--flame-" + name).trim();
    palette.onMatch = style.getPropertyValue("--flame-on-match").trim();
    return palette;
  }

  repaint() {
    this.palette = null;
    this.draw();
  }

  at(event) {
    const bounds = this.parts.canvas.getBoundingClientRect();
    const x = event.clientX - bounds.left;
    let row = Math.floor((event.clientY - bounds.top + this.parts.scroll.scrollTop) / ROW);
    if (this.isUpwards) row = this.rows.length - 1 - row;
    const boxes = this.rows[row] || [];
    return boxes.find((box) => x >= box.x && x < box.x + box.width) || null;
  }

  hover(box, event) {
    const was = this.hovered;
    this.hovered = box;
    this.parts.canvas.style.cursor = box ? "pointer" : "default";
    if (box) this.parts.tip.show(event, (into) => this.describe(into, box));
    else this.parts.tip.hide();
    if (was !== box) this.draw();
  }

  /* All that is known of a box, for the tip and for the line below the graph. */
  describe(into, box) {
    const { measure, tree, values } = this;
    const frame = tree.frame[box.node];
    const value = box.rest ? box.sum : values[box.node];
    if (box.rest) {
      into.append(element("strong", "", text.count(box.rest) + " too narrow to be drawn"));
      into.append(element("span", "where", "in " + this.model.name(frame) + "; zoom in to see them"));
    } else {
      into.append(element("strong", "", this.model.name(frame)));
      const where = this.model.location(frame);
      if (frame >= 0) into.append(element("span", "where", where || "no file known"));
    }
    into.append(element("span", "value", measure.full(value)));
    const error = box.rest ? null : tree.error(measure, box.node);
    if (error !== null) {
      const said = "± " + measure.showError(error) + ", one standard error";
      into.append(element("span", "error", said));
    }
    if (box.node === 0 && !box.rest) return;
    const parent = box.rest ? box.node : tree.parent[box.node];
    let shares = text.share(value, values[0]) + " of all";
    if (parent !== 0) shares += ", " + text.share(value, values[parent]) + " of its ";
    if (parent !== 0) shares += this.isInverted ? "callee" : "caller";
    into.append(element("span", "share", shares));
  }

  current() {
    const node = this.selected === null ? this.zoomed : this.selected;
    return { node, x: 0, width: 0, rest: 0 };
  }

  /* Scrolls until the row of a node can be seen. */
  reveal(node) {
    const row = this.rows.findIndex((boxes) => boxes.some((b) => b.node === node && !b.rest));
    if (row < 0) return;
    const { scroll } = this.parts;
    const top = this.top(row);
    if (top < scroll.scrollTop) scroll.scrollTop = top;
    const over = top + ROW - scroll.clientHeight;
    if (over > scroll.scrollTop) scroll.scrollTop = over;
  }

  key(event) {
    const node = this.selected === null ? this.zoomed : this.selected;
    const row = this.rows.findIndex((boxes) => boxes.some((b) => b.node === node && !b.rest));
    const boxes = row < 0 ? [] : this.rows[row].filter((box) => !box.rest);
    const at = boxes.findIndex((box) => box.node === node);
    const [up, down] = this.isUpwards ? ["ArrowDown", "ArrowUp"] : ["ArrowUp", "ArrowDown"];
    let to = null;
    if (event.key === up && node > 0) to = this.tree.parent[node];
    if (event.key === down) to = this.firstBelow(node, row);
    if (event.key === "ArrowLeft" && at > 0) to = boxes[at - 1].node;
    if (event.key === "ArrowRight" && at + 1 < boxes.length) to = boxes[at + 1].node;
    if (event.key === "Home") to = 0;
    if (event.key === "Enter" || event.key === " ") this.zoom(node);
    else if (to !== null) this.select(to);
    else if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
  }

  firstBelow(node, row) {
    const below = this.rows[row + 1] || [];
    const found = below.find((box) => !box.rest && this.tree.parent[box.node] === node);
    return found ? found.node : null;
  }
}
