/* Puts the page together. Everything that a profile says is set as text. */

const find = (id) => document.getElementById(id);

/* What hovers over a chart, inside of the window wherever the pointer is. */
const tip = {
  show(event, fill) {
    const box = find("tip");
    box.replaceChildren();
    fill(box);
    box.hidden = false;
    const gap = 14;
    const { width, height } = box.getBoundingClientRect();
    const right = event.clientX + gap + width < window.innerWidth - 8;
    const x = right ? event.clientX + gap : Math.max(event.clientX - gap - width, 8);
    const below = event.clientY + gap + height < window.innerHeight - 8;
    const y = below ? event.clientY + gap : Math.max(event.clientY - gap - height, 8);
    box.style.left = Math.min(x, Math.max(window.innerWidth - width - 8, 8)) + "px";
    box.style.top = y + "px";
  },
  hide() {
    find("tip").hidden = true;
  },
};

function fact(word, value) {
  find("facts").append(element("dt", "", word), element("dd", "", value));
}

function header(model) {
  const { data } = model;
  const interval = text.roundBytes(data.interval_bytes);
  fact("Recorded", model.isSampled ? `one sample in ${interval} on average` : "every allocation");
  fact("For", text.time(data.duration_ms));
  if (data.started_ms !== null) {
    const began = new Date(data.started_ms);
    fact("From", began.toISOString().replace("T", " ").replace(/\.\d+Z/, " UTC"));
  }
  fact("Stacks", text.count(data.sites.node.length));
  find("sampled").hidden = !model.isSampled;
  if (model.isSampled) find("interval").textContent = interval;
}

/* The three figures that people ask for first. */
function figures(model) {
  const { peak } = model.data;
  const notes = {
    live: "of what was recorded, when the profile was taken",
    peak: "of what was recorded, when the process held the most",
    total: "since the profile began",
  };
  const titles = { live: "Alive at the end", peak: "Alive at the peak", total: "Allocated in all" };
  for (const what of ["live", "peak", "total"]) {
    const card = element("div", "card");
    card.append(element("h3", "", titles[what]));
    for (const measure of MEASURES.filter((one) => one.what === what)) {
      const value = model.total(measure);
      const line = element("p", measure.unit);
      const isUnseen = model.isSampled && value === 0;
      line.append(element("span", "value", isUnseen ? DASH : measure.show(value)));
      if (measure.unit === "blocks") line.append(element("span", "unit", value === 1 ? " block" : " blocks"));
      if (model.isSampled && !isUnseen) {
        const error = model.callers.error(measure, 0);
        line.append(element("span", "error", " ± " + measure.showError(error)));
      }
      line.dataset.key = measure.key;
      line.dataset.value = String(value);
      line.title = measure.full(value);
      card.append(line);
    }
    card.append(element("p", "note", notes[what]));
    find("figures").append(card);
  }
  const card = element("div", "card");
  card.append(element("h3", "", "Peak of the process"));
  const line = element("p", "bytes");
  line.append(element("span", "value", peak.bytes > 0 ? text.bytes(peak.bytes) : DASH));
  card.append(line);
  const when = peak.bytes > 0 ? "after " + text.time(peak.at_ms) : "nothing was seen alive";
  card.append(element("p", "blocks", when));
  if (peak.error_bytes > 0) {
    card.append(element("p", "error", "right to " + text.bytes(peak.error_bytes) + " either way"));
  }
  card.append(element("p", "note", "counted, with what is older than the profile"));
  find("figures").append(card);
}

function incomplete(model) {
  const { incomplete: lost, unnamed } = model.data;
  const { blocks, frames, cut_stacks: cut } = lost;
  const unrecorded =
    " not recorded, for want of memory; a thread that could not be followed counts as one," +
    " and so does a free that could not be entered";
  const said = [
    [blocks, " block was", " blocks were", unrecorded],
    [frames, " frame was", " frames were", " not kept, for want of memory"],
    [cut, " stack", " stacks", " could not be followed to where the thread began"],
  ].filter(([n]) => n > 0);
  const box = find("incomplete");
  if (said.length === 0 && unnamed.length === 0) {
    box.append(element("p", "", "Nothing is missing: no block, frame or stack was lost."));
    return;
  }
  box.classList.add("warns");
  box.append(element("p", "", "This profile is not complete:"));
  const list = element("ul");
  for (const [n, one, many, what] of said) {
    list.append(element("li", "", text.count(n) + (n === 1 ? one : many) + what));
  }
  for (const note of unnamed) list.append(element("li", "", note));
  box.append(list);
}

function counters(model) {
  const { stats, before } = model.data;
  const rows = [
    ["live_bytes", "Live", text.bytes],
    ["live_blocks", "Live blocks", text.count],
    ["peak_bytes", "Peak", text.bytes],
    ["allocated_bytes", "Allocated", text.bytes],
    ["allocations", "Allocations", text.count],
    ["freed_bytes", "Freed", text.bytes],
    ["frees", "Frees", text.count],
    ["reallocations", "Reallocations", text.count],
    ["failures", "Refused requests", text.count],
  ];
  for (const [key, label, show] of rows) {
    const line = element("tr");
    const head = element("th", "text", label);
    head.scope = "row";
    line.append(head);
    for (const value of [before[key], stats[key]]) {
      const cell = element("td", "number", show(value));
      cell.title = text.count(value);
      line.append(cell);
    }
    const change = stats[key] - before[key];
    const isBytes = show === text.bytes;
    const size = isBytes ? show(Math.abs(change)) : text.count(Math.abs(change));
    const sign = change > 0 ? "+" : change < 0 ? "−" : "";
    /* A peak is not the sum of anything: its change says nothing. */
    const words = key === "peak_bytes" ? DASH : sign + size;
    line.append(element("td", "number", words));
    find("counters").append(line);
  }
  if (stats.peak_error_bytes > 0) {
    const words = `The peak may be off by ${text.bytes(stats.peak_error_bytes)} either way; all else is exact.`;
    find("counted").textContent = words;
  }
}

function mappings(model) {
  const { start, end, path, build_id: id } = model.data.mappings;
  find("mapped").hidden = path.length === 0;
  path.forEach((name, i) => {
    const line = element("tr");
    line.append(element("td", "text code", name || "without a path"));
    line.append(element("td", "text code", start[i] + "–" + end[i]));
    line.append(element("td", "text code", id[i] || DASH));
    find("mappings").append(line);
  });
}

/* Wires the flame graph's controls, and answers what shows a stack in it. */
function graph(model) {
  const search = find("search");
  const flame = new Flame(model, {
    canvas: find("canvas"),
    scroll: find("scroll"),
    space: find("space"),
    tip,
    changed: () => report(),
  });
  const report = () => {
    const root = find("flame");
    root.dataset.measure = flame.measure.key;
    root.dataset.zoom = model.name(flame.tree.frame[flame.zoomed]);
    root.dataset.boxes = String(flame.rows.reduce((sum, row) => sum + row.length, 0));
    find("reset").disabled = flame.zoomed === 0 && !flame.matches && flame.selected === null;
    find("chosen").replaceChildren();
    if (flame.rows.length > 0) flame.describe(find("chosen"), flame.current());
    const sum = flame.values[0];
    find("nothing").hidden = sum > 0;
    find("scroll").hidden = !(sum > 0);
    const seen = model.isSampled ? "No sample of " : "There are no ";
    find("nothing").textContent = seen + flame.measure.title + " in this profile.";
    const found = flame.matches ? flame.tree.matched(flame.matches, flame.values) : null;
    const said = text.share(found, sum) + " of the " + flame.measure.title + " in matching stacks";
    find("found").textContent = found === null ? "" : found === 0 ? "No stack matches." : said;
  };
  const measureOf = (what, unit) => MEASURES.find(({ key }) => key === what + "_" + unit);
  const measured = () => {
    const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;
    flame.show({ measure: measureOf(chosen("what"), chosen("unit")) });
  };
  const check = (what, unit = flame.measure.unit) => {
    for (const [name, value] of [["what", what], ["unit", unit]]) {
      document.querySelector(`input[name=${name}][value=${value}]`).checked = true;
    }
    measured();
  };
  for (const input of document.querySelectorAll("input[name=what], input[name=unit]")) {
    input.addEventListener("change", measured);
  }
  const look = () => {
    const wanted = search.value.trim();
    flame.show({ matches: wanted === "" ? null : model.matches(wanted) });
  };
  search.addEventListener("input", look);
  const reset = () => {
    search.value = "";
    tip.hide();
    flame.reset();
  };
  find("reset").addEventListener("click", reset);
  find("invert").addEventListener("change", (event) => flame.show({ isInverted: event.target.checked }));
  find("upwards").addEventListener("change", (event) => flame.show({ isUpwards: event.target.checked }));
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input[type=search]");
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "Escape" && event.target !== find("filter")) {
      reset();
    }
  });
  for (const event of ["scroll", "pointerdown"]) {
    document.addEventListener(event, () => tip.hide(), { passive: true, capture: true });
  }
  for (const query of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(query).addEventListener("change", () => flame.repaint());
  }
  check(model.opening);
  /* A stack of which nothing is alive has no width among what is; and one that has only made
     older blocks larger has bytes and no blocks. */
  const hasAny = (what, unit, node) => model.callers.values(measureOf(what, unit))[node] > 0;
  return (node) => {
    const { what: shown, unit } = flame.measure;
    find("invert").checked = false;
    flame.show({ isInverted: false });
    for (const one of [unit, "bytes"]) {
      const wanted = [shown, "peak", "total"].find((what) => hasAny(what, one, node));
      if (!wanted) continue;
      if (wanted !== shown || one !== unit) check(wanted, one);
      break;
    }
    flame.zoom(node);
    find("flame").scrollIntoView();
    find("canvas").focus({ preventScroll: true });
  };
}

function start() {
  const model = new Model(JSON.parse(find("data").textContent));
  const { data } = model;
  header(model);
  figures(model);
  incomplete(model);
  counters(model);
  mappings(model);
  const reveal = graph(model);
  const hasSites = data.sites.node.length > 0;
  find("no-sites").hidden = hasSites;
  find("filter").parentElement.hidden = !hasSites;
  if (hasSites) {
    const sites = siteTable(find("sites"), model, reveal);
    find("filter").addEventListener("input", (event) => sites.filter(event.target.value));
  }
  const hasTime = data.timeline.at_ms.length > 0;
  find("no-time").hidden = hasTime;
  find("time").parentElement.hidden = !hasTime;
  if (hasTime) new Timeline(find("time"), data, tip);
  const hasSizes = data.sizes.blocks.some((n) => n > 0);
  find("no-sizes").hidden = hasSizes;
  find("sizes").parentElement.hidden = !hasSizes;
  if (hasSizes) new Histogram(find("sizes"), data.sizes, tip, model.isSampled);
  find("no-threads").hidden = data.threads.name.length > 0;
  if (data.threads.name.length > 0) threadTable(find("threads"), model);
  document.documentElement.dataset.ready = "yes";
  performance.mark("ready");
}

start();
