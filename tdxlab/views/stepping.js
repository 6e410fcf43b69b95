// Draws the frames that tdxlab/views/stepping.py keeps.  Moves among visited steps happen here, without the kernel.

const COLUMNS = 32; // entries a row of a strip: 512 entries are 16 rows
const TRAITS = ["path", "cursor", "message", "ack"];

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function button(text, title, onClick) {
  const node = make("button", "tdx-button", text);
  node.type = "button";
  node.title = title;
  node.addEventListener("click", onClick);
  return node;
}

function expand(side) {
  return side.runs.flatMap(([state, n]) => Array(n).fill(state));
}

const BELOW = 60, HEADLINES = 52; // pixels of the memory's height: legend and facts; the names of a region

// how large an entry may be drawn so that both strips of a region fit into the memory's box, side by side
function entrySize(box, regions) {
  const most = regions <= 1 ? [14, 14] : regions <= 2 ? [14, 9] : regions <= 6 ? [8, 5] : [4, 4];
  const width = Math.max(4, Math.min(most[0], Math.floor((box.clientWidth - 20) / (2 * COLUMNS))));
  const room = (box.clientHeight - BELOW) / Math.max(1, regions) - HEADLINES;
  const height = Math.max(3, Math.floor(room / (512 / COLUMNS)));
  return { w: width, h: Math.min(width + 1, most[1], height) };
}

// --- one strip: 512 entries as a block of 16 rows, or a 2M leaf as one block ---

function drawStrip(canvas, side, before, look, frame, { w, h }) {
  const width = COLUMNS * w, height = (512 / COLUMNS) * h;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  const states = expand(side);
  if (side.leaf || states.length === 0) {
    const state = side.leaf ? states[0] : "FREE";
    pen.fillStyle = look(state).fill;
    pen.fillRect(0, 0, width, height);
    hatch(pen, state, 0, 0, width, height);
    pen.fillStyle = look(state).ink;
    pen.font = `bold ${Math.max(11, h * 2)}px sans-serif`;
    label(pen, side.text, width, height, look(state));
  } else {
    pen.font = `bold ${Math.min(w, h)}px monospace`;
    states.forEach((state, i) => {
      const x = (i % COLUMNS) * w, y = Math.floor(i / COLUMNS) * h;
      pen.fillStyle = look(state).fill;
      pen.fillRect(x, y, w, h);
      if (h >= 8) {
        pen.fillStyle = look(state).ink;
        pen.fillText(look(state).letter, x + w / 2, y + h / 2 + 0.5);
      }
      pen.strokeStyle = "#8888";
      pen.lineWidth = 0.5;
      pen.strokeRect(x, y, w, h);
    });
  }
  pen.lineWidth = 1;
  pen.strokeStyle = "#666";
  pen.strokeRect(0.5, 0.5, width - 1, height - 1);
  if (before) markChanges(pen, side, before, states, frame, { w, h }, width, height);
}

function label(pen, text, width, height, { fill, ink }) {
  const wide = pen.measureText(text).width;
  // the longest names of states are wider than a strip
  if (wide > width - 8) pen.font = pen.font.replace(/[\d.]+px/, (px) => `${(parseFloat(px) * (width - 8)) / wide}px`);
  const half = pen.measureText(text).width / 2 + 8;
  pen.fillStyle = fill;
  pen.fillRect(width / 2 - half, height / 2 - 14, 2 * half, 28);
  pen.fillStyle = ink;
  pen.fillText(text, width / 2, height / 2);
}

function hatch(pen, state, x, y, width, height) {
  if (!state.includes("PENDING") && !state.includes("BLOCKED")) return;
  pen.save();
  pen.beginPath();
  pen.rect(x, y, width, height);
  pen.clip();
  pen.strokeStyle = "#0003";
  pen.beginPath();
  for (let d = -height; d < width; d += state.includes("BLOCKED") ? 10 : 24) {
    pen.moveTo(x + d, y + height);
    pen.lineTo(x + d + height, y);
  }
  pen.stroke();
  pen.restore();
}

function markChanges(pen, side, before, states, colour, { w, h }, width, height) {
  const old = expand(before);
  pen.strokeStyle = colour;
  if (side.leaf !== before.leaf || old.length !== states.length || side.leaf) {
    if (side.leaf === before.leaf && side.text === before.text) return;
    pen.lineWidth = 5;
    pen.strokeRect(2.5, 2.5, width - 5, height - 5);
    return;
  }
  if (states.every((state, i) => state !== old[i])) {
    pen.lineWidth = 5;
    pen.strokeRect(2.5, 2.5, width - 5, height - 5);
    return;
  }
  pen.lineWidth = 3;
  states.forEach((state, i) => {
    if (state !== old[i]) {
      const x = (i % COLUMNS) * w, y = Math.floor(i / COLUMNS) * h;
      pen.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
    }
  });
}

// --- the widget ---

function render({ model, el }) {
  const cache = new Map(); // frame number -> frame
  const asked = new Set();
  let here = model.get("cursor"); // the step that is shown
  let unanswered = null; // the last request to the kernel, until it is acknowledged; older answers are out of date
  let stepping = false; // is one of the unanswered requests a step onto new ground?
  const fixed = model.get("static");
  const look = (state) => fixed.states[state] || fixed.other;
  const cpuColour = (cpu) => fixed.cpus[cpu % fixed.cpus.length];

  const root = make("div", "tdx-stepper");
  root.tabIndex = 0;
  root.setAttribute("data-lm-suppress-shortcuts", "true");
  root.setAttribute("aria-label", `Stepper: ${fixed.title}. Arrow keys step and go back; a digit steps that CPU.`);

  const ids = () => model.get("path");
  const cursor = () => Math.min(here, ids().length - 1);
  const frameAt = (n) => cache.get(ids()[n]);

  // Custom messages keep their order; a synchronised trait may be sent late and would overwrite a newer one.
  function request(what) {
    unanswered = `${Date.now()}-${Math.random()}`;
    stepping = stepping || what.do !== "go";
    model.send({ ...what, id: unanswered });
  }

  function goTo(n) {
    const to = Math.max(0, Math.min(n, ids().length - 1));
    if (to === cursor()) return;
    here = to;
    request({ do: "go", at: to });
    model.set("cursor", to); // for what is linked to it in the browser
    drawSoon();
  }

  function step(cpu = null) {
    const next = frameAt(cursor() + 1);
    if (!stepping && next && (cpu === null || next.event.cpu === cpu)) goTo(cursor() + 1);
    else if (stepping) request({ do: "step", cpu }); // goes on from where the steps before it lead
    else request({ do: "step", cpu, at: cursor() });
  }

  const run = () => request({ do: "run", at: cursor() });

  function ask() {
    const here = ids()[cursor()];
    const missing = [here, ...ids()].filter((id) => !cache.has(id) && !asked.has(id)).slice(0, 100);
    if (missing.length === 0) return;
    missing.forEach((id) => asked.add(id));
    model.send({ do: "frames", ids: [...new Set(missing)] });
  }

  // controls
  const controls = make("div", "tdx-controls");
  const toStart = button("|◀", "to the start (Home)", () => goTo(0));
  const back = button("◀ back", "undo the last step (left arrow)", () => goTo(cursor() - 1));
  const forward = button("step ▶", "along the visited path, else the CPU that ran last (right arrow)", () => step());
  const toEnd = button("run to end ▶▶", "go on with the CPU that ran last while it can (End)", run);
  const slider = make("input", "tdx-slider");
  slider.type = "range";
  slider.min = 0;
  slider.setAttribute("aria-label", "step that is shown");
  slider.addEventListener("input", () => goTo(Number(slider.value)));
  const where = make("span", "tdx-where");
  controls.append(toStart, back, forward, toEnd, slider, where);

  const head = make("div", "tdx-head");
  const schedule = make("input", "tdx-schedule");
  schedule.type = "text";
  schedule.spellcheck = false;
  schedule.title = "The schedule so far, as tdxlab run takes it. Paste another, or only 0*5 1, and press Enter.";
  schedule.setAttribute("aria-label", "schedule");
  schedule.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") request({ do: "follow", schedule: schedule.value });
  });
  const given = make("label", "tdx-given tdx-quiet", "schedule ");
  given.append(schedule);
  head.append(make("span", "tdx-title", fixed.title), given);

  const message = make("div", "tdx-message");
  message.setAttribute("role", "alert");

  // a column for each CPU
  const columns = make("div", "tdx-columns");
  const cpus = fixed.names.map((name, cpu) => {
    const box = make("div", "tdx-cpu");
    const bar = make("button", "tdx-cpu-bar");
    bar.type = "button";
    bar.style.background = cpuColour(cpu);
    const what = make("span", "tdx-cpu-name", name === `CPU ${cpu}` ? name : `CPU ${cpu}: ${name}`);
    const state = make("span", "tdx-cpu-state");
    bar.append(what, state);
    bar.addEventListener("click", () => step(cpu));
    const stack = make("div", "tdx-stack");
    const file = make("div", "tdx-file tdx-quiet");
    const code = make("pre", "tdx-code");
    const locks = make("div", "tdx-locks");
    box.append(bar, stack, file, code, locks);
    columns.append(box);
    return { box, bar, state, stack, file, code, locks };
  });

  function drawPlace(box, now) {
    const place = now.file ? `${now.file}:${now.line}` : " ";
    const next = now.next ? `  next: ${now.next}` : "";
    const number = next.includes(":0x") ? next.lastIndexOf(":0x") : next.length;
    box.title = place + next;
    const wanted = make("span", "tdx-wanted");
    wanted.append(make("span", "tdx-short", next.slice(0, number)), make("span", "", next.slice(number)));
    box.replaceChildren(make("span", "tdx-short", place), wanted);
  }

  function drawCpu(part, cpu, now, frame) {
    const last = frame.event && frame.event.cpu === cpu;
    part.box.className = `tdx-cpu tdx-${now.state}${last ? " tdx-last" : ""}`;
    part.box.style.borderColor = last ? cpuColour(cpu) : "";
    part.bar.disabled = now.state !== "ready";
    part.bar.title = now.state === "ready" ? `step CPU ${cpu} (key ${cpu})` : "this CPU can not run here";
    part.state.textContent = { ready: "step ▶", waits: "waits", done: "has returned" }[now.state];
    part.stack.replaceChildren(
      ...now.stack.map((name, i) => make("span", i === now.stack.length - 1 ? "tdx-inner" : "", name)),
    );
    drawPlace(part.file, now);
    part.stack.scrollTop = part.stack.scrollHeight; // the innermost ones are seen
    part.code.replaceChildren(
      ...now.source.map(([n, text]) => {
        const line = make("div", n === now.line ? "tdx-line tdx-next" : "tdx-line");
        const body = make("span", "tdx-text", text || " ");
        body.style.setProperty("--hang", `${text.search(/\S|$/) + 4}ch`); // where a line that is too long goes on
        line.append(make("span", "tdx-number", String(n).padStart(4)), body);
        return line;
      }),
    );
    const next = part.code.querySelector(".tdx-next");
    const row = parseFloat(getComputedStyle(part.code).lineHeight) || 1; // no half lines at the top
    if (next) part.code.scrollTop = Math.round((next.offsetTop - (part.code.clientHeight - next.offsetHeight) / 2) / row) * row;
    part.locks.replaceChildren(
      make("span", "tdx-quiet", now.locks.length ? "holds " : "holds no lock"),
      ...now.locks.map((name) => make("span", "tdx-lock", name)),
    );
  }

  // what the last step did
  const last = make("div", "tdx-last-step");

  function drawLast(event) {
    if (!event) {
      last.replaceChildren(make("b", "", "The set-up is done. "), "Choose which CPU makes the first step.");
      return;
    }
    const who = make("b", "tdx-event-cpu", `step ${event.n}, CPU ${event.cpu}`);
    who.style.background = cpuColour(event.cpu);
    const did = make("span", "", ` ${[event.function, event.label].filter(Boolean).join(" · ")}`);
    const notes = event.notes.map((note) => make("div", "tdx-note", note));
    const changes = make("div", "tdx-changes tdx-quiet", event.changes.join("   "));
    last.replaceChildren(who, did, ...notes, changes);
  }

  // memory
  const memory = make("div", "tdx-memory");
  const strips = make("div", "tdx-strips");
  const legend = make("div", "tdx-legend");
  const facts = make("div", "tdx-facts");
  memory.append(strips, legend, facts);
  const drawn = new Map(); // base of a region -> its nodes

  function region(base) {
    if (!drawn.has(base)) {
      const box = make("div", "tdx-region");
      const bar = make("div", "tdx-region-bar");
      const lpage = make("span", "tdx-lpage");
      bar.append(make("b", "", `GPA ${base}`), lpage);
      const sides = {};
      const pair = make("div", "tdx-pair");
      for (const [side, name] of [["sept", "S-EPT"], ["mirror", "mirror"]]) {
        const figure = make("div", "tdx-side");
        const text = make("div", "tdx-side-text");
        const canvas = make("canvas", `tdx-canvas-${side}`);
        canvas.setAttribute("role", "img");
        figure.append(text, canvas);
        pair.append(figure);
        sides[side] = { text, canvas, name };
      }
      box.append(bar, pair);
      drawn.set(base, { box, lpage, sides });
    }
    return drawn.get(base);
  }

  function drawMemory(picture, before) {
    const size = entrySize(memory, picture.regions.length);
    const old = new Map((before ? before.regions : []).map((r) => [r.base, r]));
    const boxes = [];
    const states = new Set();
    for (const now of picture.regions) {
      const part = region(now.base);
      const was = old.get(now.base);
      part.lpage.textContent = `lpage_info: ${now.lpage || "nothing disallowed"}`;
      part.lpage.classList.toggle("tdx-changed", Boolean(was) && was.lpage !== now.lpage);
      for (const side of ["sept", "mirror"]) {
        const { text, canvas, name } = part.sides[side];
        now[side].runs.forEach(([state]) => states.add(state));
        text.textContent = `${name}: ${now[side].text}`;
        canvas.setAttribute("aria-label", text.textContent);
        drawStrip(canvas, now[side], was && was[side], look, fixed.changed, size);
      }
      boxes.push(part.box);
    }
    root.classList.toggle("tdx-no-td", !picture.td); // then the facts have all the room
    if (boxes.length === 0 && picture.td) boxes.push(make("div", "tdx-quiet", "Neither the S-EPT nor the mirror maps anything yet."));
    if (boxes.length !== strips.children.length || boxes.some((box, i) => strips.children[i] !== box)) {
      strips.replaceChildren(...boxes);
    }
    const known = [...Object.keys(fixed.states).filter((s) => states.has(s)), ...[...states].filter((s) => !fixed.states[s])];
    legend.replaceChildren(
      ...known.map((state) => {
        const item = make("span", "tdx-legend-item");
        const swatch = make("span", "tdx-swatch", look(state).letter);
        swatch.style.background = look(state).fill;
        swatch.style.color = look(state).ink;
        item.append(swatch, `${state}: ${look(state).text}`);
        return item;
      }),
    );
    facts.replaceChildren(
      ...Object.entries(picture.facts).map(([name, value]) => {
        const item = make("span", "tdx-fact", `${name} `);
        item.append(make("b", "", value));
        item.classList.toggle("tdx-changed", Boolean(before) && before.facts[name] !== value);
        return item;
      }),
    );
  }

  // events and claims
  const side = make("div", "tdx-side-panel");
  const totals = make("div", "tdx-totals");
  const claims = make("div", "tdx-claims");
  const events = make("div", "tdx-events");
  events.setAttribute("aria-label", "events so far");
  side.append(totals, claims, events);
  let listed = []; // frame numbers of the rows

  function drawTotals(numbers) {
    totals.replaceChildren(
      ...Object.entries(numbers).map(([name, n]) => {
        const item = make("span", "tdx-total", `${name} `);
        item.append(make("b", "", n));
        return item;
      }),
    );
  }

  function drawClaims(verdicts) {
    claims.replaceChildren(
      ...Object.entries(verdicts).map(([id, verdict]) => {
        const bad = verdict === "broken" || verdict === "not seen";
        const open = verdict === "not seen yet" || verdict === "judged at the end";
        const row = make("div", `tdx-claim${bad ? " tdx-bad" : open ? " tdx-open" : ""}`);
        row.title = fixed.claims[id] || ""; // whole, where the line has no room for it
        row.append(make("b", "", id), make("span", "tdx-verdict", ` ${verdict} `), make("span", "tdx-quiet", fixed.claims[id] || ""));
        return row;
      }),
    );
  }

  function eventRow(id, n) {
    const row = make("div", "tdx-event");
    row.addEventListener("click", () => goTo(n));
    const event = cache.has(id) ? cache.get(id).event : null;
    if (!event) {
      row.textContent = `${n - 1} …`;
      return row;
    }
    const who = make("span", "tdx-event-cpu", String(event.cpu));
    who.style.background = cpuColour(event.cpu);
    const did = make("div", "tdx-did");
    did.append(make("span", "tdx-event-function", event.function), " ", make("span", "", event.label));
    event.notes.forEach((note) => did.append(make("div", "tdx-note", note)));
    row.append(make("span", "tdx-number", String(event.n).padStart(4)), who, did);
    return row;
  }

  function drawEvents() {
    const path = ids().slice(1);
    let same = 0;
    while (same < path.length && same < listed.length && path[same] === listed[same]) same += 1;
    while (events.children.length > same) events.lastChild.remove();
    listed = listed.slice(0, same);
    for (const id of path.slice(same)) {
      listed.push(id);
      events.append(eventRow(id, listed.length));
    }
    const n = cursor();
    [...events.children].forEach((row, i) => {
      row.classList.toggle("tdx-future", i >= n);
      row.classList.toggle("tdx-here", i === n - 1);
    });
    const here = events.children[n - 1];
    const top = [...events.children].find((row) => here && row.offsetTop >= here.offsetTop - events.clientHeight / 2);
    events.scrollTop = top ? top.offsetTop : 0;
  }

  function scheduleText() {
    const runs = [];
    for (let n = 1; n <= cursor(); n += 1) {
      const frame = frameAt(n);
      if (!frame) return "…";
      const run = runs[runs.length - 1];
      if (run && run[0] === frame.event.cpu) run[1] += 1;
      else runs.push([frame.event.cpu, 1]);
    }
    const lengths = runs.map(([cpu, n]) => (n > 1 ? `${cpu}*${n}` : String(cpu)));
    return [fixed.setting, ...lengths].filter(Boolean).join(" ");
  }

  function draw() {
    ask();
    message.textContent = model.get("message");
    const n = cursor(), length = ids().length - 1;
    slider.max = length;
    slider.value = n;
    slider.disabled = length === 0;
    const frame = frameAt(n);
    back.disabled = toStart.disabled = n === 0;
    where.textContent = `${n} of ${length} steps`;
    if (!frame) return;
    const more = n < length || frame.runnable.length > 0;
    forward.disabled = !more;
    toEnd.disabled = !more;
    if (frame.ended !== "running") where.textContent += ` · ${frame.ended}`;
    if (document.activeElement !== schedule) schedule.value = scheduleText();
    frame.cpus.forEach((now, cpu) => drawCpu(cpus[cpu], cpu, now, frame));
    drawLast(frame.event);
    const before = n > 0 ? frameAt(n - 1) : null;
    drawMemory(frame.picture, before ? before.picture : null);
    drawTotals(frame.totals);
    drawClaims(frame.claims);
    drawEvents();
    root.dataset.cursor = n; // what is on the screen, for tests
  }

  let scheduled = false;
  function drawSoon() {
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => {
      scheduled = false;
      draw();
    });
  }

  function onMessage(content) {
    if (!content || !content.frames) return;
    for (const [id, frame] of Object.entries(content.frames)) {
      cache.set(Number(id), frame);
      asked.delete(Number(id));
    }
    listed.forEach((id, i) => {
      if (String(id) in content.frames) events.children[i].replaceWith(eventRow(id, i + 1));
    });
    drawSoon();
  }

  function onKey(event) {
    if (event.target === schedule || event.target === slider || event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      ArrowRight: () => step(),
      ArrowLeft: () => goTo(cursor() - 1),
      Home: () => goTo(0),
      End: run,
    };
    const digit = /^[0-9]$/.test(event.key) ? Number(event.key) : -1;
    if (digit >= 0 && digit < cpus.length) actions[event.key] = () => step(digit);
    if (!actions[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    actions[event.key]();
  }

  function onState() {
    if (unanswered !== null && model.get("ack") === unanswered) {
      unanswered = null;
      stepping = false;
    }
    if (unanswered === null) here = model.get("cursor");
    drawSoon();
  }

  model.on("msg:custom", onMessage);
  TRAITS.forEach((trait) => model.on(`change:${trait}`, onState));
  root.addEventListener("keydown", onKey);

  const lower = make("div", "tdx-lower");
  lower.append(memory, side);
  root.classList.toggle("tdx-no-kvm", !fixed.kvm); // then there is no memory to draw and nothing of KVM's to count
  root.append(head, controls, message, columns, last, lower);
  el.append(root);
  draw();
  const resized = new ResizeObserver(drawSoon); // the strips take the room that there is
  resized.observe(memory);

  return () => {
    resized.disconnect();
    model.off("msg:custom", onMessage);
    TRAITS.forEach((trait) => model.off(`change:${trait}`, onState));
  };
}

export default { render };
