/* The data of the page and what is worked out from it. What is not known is
   null all the way and is shown as a dash, never as 0. */

const DASH = "–";
const ORIGINS = ["user", "dependency", "std", "allocator", "unknown"];

const text = {
  count(n) {
    return n === null || Number.isNaN(n) ? DASH : Math.round(n).toLocaleString("en-US");
  },
  signed(n) {
    return n > 0 ? "+" + text.count(n) : text.count(n).replace("-", "−");
  },
  bytes(n) {
    if (n === null || Number.isNaN(n)) return DASH;
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = 0;
    let rest = n;
    /* Not quite 1024 would be rounded to it. */
    while (rest >= (unit === 0 ? 1024 : 1023.995) && unit + 1 < units.length) {
      rest /= 1024;
      unit += 1;
    }
    return (unit === 0 ? Math.round(rest) : rest.toFixed(2)) + " " + units[unit];
  },
  /* Short, for axes: no decimals that say nothing. */
  roundBytes(n) {
    return text.bytes(n).replace(/\.00 /, " ").replace(/(\.\d)0 /, "$1 ");
  },
  share(part, whole) {
    if (part === null || !(whole > 0)) return DASH;
    const percent = (100 * part) / whole;
    if (percent > 0 && percent < 0.01) return "< 0.01 %";
    return percent.toFixed(percent < 10 ? 2 : 1) + " %";
  },
  time(ms) {
    if (ms === null) return DASH;
    if (ms < 1) return ms === 0 ? "0 ms" : "< 1 ms";
    if (ms < 1000) return Math.round(ms) + " ms";
    if (ms < 60000) return (ms / 1000).toFixed(ms < 10000 ? 2 : 1).replace(/\.?0+$/, "") + " s";
    const seconds = Math.round(ms / 1000);
    const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
    const [h, m, s] = parts;
    if (h > 0) return h + " h" + (m > 0 ? " " + m + " min" : "");
    return m + " min" + (s > 0 ? " " + s + " s" : "");
  },
};

/* What is measured, as `live_bytes` and so on. */
class Measure {
  constructor(what, unit) {
    this.what = what;
    this.unit = unit;
    this.key = what + "_" + unit;
  }

  get title() {
    const what = { live: "alive at the end", peak: "alive at the peak", total: "allocated in all" };
    return this.unit + " " + what[this.what];
  }

  show(n) {
    return this.unit === "bytes" ? text.bytes(n) : text.count(n);
  }

  /* A standard error, of which a part of a block is not nothing. */
  showError(n) {
    const isSmall = this.unit === "blocks" && n !== null && n < 10;
    return isSmall ? n.toFixed(1) : this.show(n);
  }

  /* With its unit in words. */
  full(n) {
    if (n === null) return DASH;
    if (this.unit === "blocks") return text.count(n) + (n === 1 ? " block" : " blocks");
    return n < 1024 ? text.bytes(n) : text.bytes(n) + " (" + text.count(n) + " bytes)";
  }
}

const MEASURES = ["live", "peak", "total"].flatMap((what) =>
  ["bytes", "blocks"].map((unit) => new Measure(what, unit)),
);

/* A tree of calls as parallel arrays. Node 0 is the root, and a parent stands
   before its children, so one pass backwards adds everything up. */
class Tree {
  constructor(parent, frame, leaves, model) {
    this.parent = parent;
    this.frame = frame;
    this.leaves = leaves;
    this.model = model;
    this.size = parent.length;
    this.sums = new Map();
    this.first = new Int32Array(this.size).fill(-1);
    this.next = new Int32Array(this.size).fill(-1);
    for (let node = this.size - 1; node > 0; node -= 1) {
      this.next[node] = this.first[parent[node]];
      this.first[parent[node]] = node;
    }
  }

  /* The outermost call first, as the data has it. */
  static ofCallers(model) {
    const { up, frame } = model.data.tree;
    const parent = new Int32Array(up.length);
    for (let node = 1; node < up.length; node += 1) parent[node] = node - up[node];
    const frames = Int32Array.from(frame);
    frames[0] = -1;
    return new Tree(parent, frames, model.data.sites.node, model);
  }

  /* The innermost call first: who allocates, and below it who called that. */
  static ofCallees(model, callers) {
    const leaves = callers.leaves;
    let steps = 1;
    for (let site = 0; site < leaves.length; site += 1) {
      for (let at = leaves[site]; at > 0; at = callers.parent[at]) steps += 1;
    }
    const parent = new Int32Array(steps);
    const frame = new Int32Array(steps).fill(-1);
    const ends = new Int32Array(leaves.length);
    /* Open addressing by (node, frame): a Map with a million keys takes seconds. */
    let slots = 1;
    while (slots < steps * 2) slots *= 2;
    const table = new Int32Array(slots);
    let size = 1;
    for (let site = 0; site < leaves.length; site += 1) {
      let node = 0;
      for (let at = leaves[site]; at > 0; at = callers.parent[at]) {
        const wanted = callers.frame[at];
        let slot = (Math.imul(node, 0x9e3779b1) ^ Math.imul(wanted, 0x85ebca6b)) >>> 0;
        slot = (slot ^ (slot >>> 15)) & (slots - 1);
        while (table[slot] && (parent[table[slot]] !== node || frame[table[slot]] !== wanted)) {
          slot = (slot + 1) & (slots - 1);
        }
        if (!table[slot]) {
          table[slot] = size;
          parent[size] = node;
          frame[size] = wanted;
          size += 1;
        }
        node = table[slot];
      }
      ends[site] = node;
    }
    return new Tree(parent.slice(0, size), frame.slice(0, size), ends, model);
  }

  /* What each node and all below it come to. */
  values(measure) {
    return this.added(measure.key, (n) => n);
  }

  /* The standard error of a node, or null where figures are exact. The errors
     of different blocks are independent, so their squares add up. */
  error(measure, node) {
    if (!this.model.isSampled) return null;
    return Math.sqrt(this.added(measure.key + "_error", (n) => (n === null ? NaN : n * n))[node]);
  }

  added(column, of) {
    const known = this.sums.get(column);
    if (known) return known;
    const sums = new Float64Array(this.size);
    const values = this.model.data.sites[column];
    for (let site = 0; site < this.leaves.length; site += 1) {
      sums[this.leaves[site]] += of(values[site]);
    }
    for (let node = this.size - 1; node > 0; node -= 1) sums[this.parent[node]] += sums[node];
    this.sums.set(column, sums);
    return sums;
  }

  /* Children with any of it, largest first. */
  children(node, values) {
    const found = [];
    for (let child = this.first[node]; child >= 0; child = this.next[child]) {
      if (values[child] > 0) found.push(child);
    }
    return found.sort((a, b) => values[b] - values[a] || a - b);
  }

  isWithin(node, ancestor) {
    while (node > ancestor) node = this.parent[node];
    return node === ancestor;
  }

  /* How much lies in stacks with a frame that `matches`, each stack once. */
  matched(matches, values) {
    const covered = new Uint8Array(this.size);
    let sum = 0;
    for (let node = 1; node < this.size; node += 1) {
      if (covered[this.parent[node]]) {
        covered[node] = 1;
      } else if (matches[this.frame[node]]) {
        covered[node] = 1;
        sum += values[node];
      }
    }
    return sum;
  }
}

/* The brackets of a name and what stands between them. The `>` of an arrow is no bracket, and
   none is one that stands in quotes, as a generic character does. */
const PIECES = /->|'[<>]'|[<>]|[^<>'-]+|['-]/g;

class Model {
  constructor(data) {
    this.data = data;
    this.isSampled = data.interval_bytes !== null;
    this.callers = Tree.ofCallers(this);
    this.callees = null;
  }

  /* Which blocks the page shows first: what is alive, but where next to nothing is, as at the
     end of a program, what was at the peak; and where no sample has seen that, all. */
  get opening() {
    const [live, peak, total] = ["live_bytes", "peak_bytes", "total_bytes"].map(
      (key) => this.callers.added(key, (n) => n)[0],
    );
    if (live > 0 && live * 100 >= peak) return "live";
    return peak > 0 ? "peak" : total > 0 ? "total" : "live";
  }

  tree(isInverted) {
    if (!isInverted) return this.callers;
    if (!this.callees) this.callees = Tree.ofCallees(this, this.callers);
    return this.callees;
  }

  name(frame) {
    return frame < 0 ? "all stacks" : this.data.strings[this.data.frames.function[frame]];
  }

  /* `file:line`, or null when the file is not known. */
  location(frame) {
    if (frame < 0) return null;
    const file = this.data.frames.file[frame];
    const line = this.data.frames.line[frame];
    if (file === null) return null;
    return this.data.strings[file] + (line === null ? "" : ":" + line);
  }

  origin(frame) {
    return frame < 0 ? "root" : ORIGINS[this.data.frames.origin[frame]];
  }

  /* The function without its generics and with at most two parts of its path. Before the function
     of a trait stands `<Type as Trait>`, of which the type is the path: what the first bracket
     holds, but no bracket in it. A name may be long, so it is walked once. */
  shortName(frame) {
    const name = this.name(frame);
    let depth = 0;
    let plain = "";
    let type = "";
    let isInType = name.startsWith("<");
    for (const [piece] of name.matchAll(PIECES)) {
      if (piece === "<") {
        depth += 1;
      } else if (piece === ">" && depth > 0) {
        depth -= 1;
        if (depth === 0) isInType = false;
      } else if (depth === 0) {
        plain += piece;
      } else if (depth === 1 && isInType) {
        type += piece;
      }
    }
    if (plain.startsWith("::")) {
      plain = type.replace(/^&?(?:mut )?/, "").split(" as ", 1)[0] + plain;
    }
    const parts = plain.split("::").filter((part) => part !== "");
    return parts.slice(-2).join("::") || name;
  }

  /* For each frame, whether its name or its place contains the text. */
  matches(wanted) {
    const needle = wanted.toLowerCase();
    const hits = this.data.strings.map((string) => string.toLowerCase().includes(needle));
    const { function: names, file } = this.data.frames;
    const found = new Uint8Array(names.length);
    for (let frame = 0; frame < found.length; frame += 1) {
      const inFile = file[frame] !== null && hits[file[frame]];
      let hit = hits[names[frame]] || inFile;
      if (!hit && needle.includes(":") && file[frame] !== null) {
        hit = this.location(frame).toLowerCase().includes(needle);
      }
      found[frame] = hit ? 1 : 0;
    }
    return found;
  }

  total(measure) {
    return this.callers.values(measure)[0];
  }

  /* The sites that share the place where the program's own code asked. */
  places() {
    const sites = this.data.sites;
    const places = new Map();
    for (let site = 0; site < sites.node.length; site += 1) {
      let place = places.get(sites.place[site]);
      if (!place) {
        place = { frame: sites.place[site], sites: [], freed: 0, life: 0, longest: 0 };
        for (const { key } of MEASURES) {
          place[key] = 0;
          place[key + "_error"] = 0;
        }
        places.set(sites.place[site], place);
      }
      place.sites.push(site);
      place.freed += sites.freed_blocks[site];
      place.life += sites.life_ms[site];
      place.longest = Math.max(place.longest, sites.longest_ms[site]);
      for (const { key } of MEASURES) {
        place[key] += sites[key][site];
        if (this.isSampled) {
          /* To `hypot` null is 0, and what is not known would be gone from the sum. */
          const error = sites[key + "_error"][site] ?? NaN;
          place[key + "_error"] = Math.hypot(place[key + "_error"], error);
        }
      }
    }
    for (const place of places.values()) {
      place.mean = place.freed > 0 ? place.life / place.freed : null;
    }
    return [...places.values()];
  }

  /* A figure with its error, or a dash where samples have seen nothing: that is
     not the same as nothing being there. */
  estimate(measure, value, error) {
    if (!this.isSampled) return measure.show(value);
    if (value === 0) return DASH;
    return measure.show(value) + " ± " + measure.showError(error);
  }
}

/* An element with a class and text; what it says is never read as markup. */
function element(tag, className, content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (content !== undefined) made.textContent = content;
  return made;
}
