// One sentence on its way through a model: a strip of stages in small, and one of them at large.
// Python sends what the model computed. The softmaxes are done here, from the very numbers that are
// shown, so that temperature acts at once and a reader can check each step with a calculator.

const MINUS = "−";
const num = (x, digits = 2) => x.toFixed(digits).replace(/^-(?=.*[1-9])/, MINUS).replace(/^-/, "");
const factor = (x) => (x < 0 ? `(${num(x)})` : num(x));
const count = (n) => n.toLocaleString("en-US");
const percent = (p) => `${num(100 * p, p >= 0.1 ? 0 : p >= 0.001 ? 1 : 2)} %`;

// White for 0, purple above, orange below: numbers of both signs.
function tint(value, most) {
  const part = Math.min(1, Math.abs(value) / most);
  const end = value < 0 ? [201, 98, 0] : [84, 39, 136];
  return `rgb(${end.map((to) => Math.round(255 + (to - 255) * part)).join(", ")})`;
}

// Python's float16 numbers, one array after the other; `part(name, i, j)` is a row of one of them.
function unpack(view, shapes) {
  const arrays = {};
  let at = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    for (let i = 0; i < values.length; i++, at += 2) {
      const bits = view.getUint16(at, true);
      const scale = (bits >> 10) & 31;
      const digits = (bits & 1023) / 1024;
      const size = scale ? (1 + digits) * 2 ** (scale - 15) : digits * 2 ** -14;
      values[i] = bits & 0x8000 ? -size : size;
    }
    arrays[name] = { shape, values };
  }
  return (name, ...indices) => {
    const { shape, values } = arrays[name];
    let [size, start] = [values.length, 0];
    indices.forEach((index, axis) => {
      size /= shape[axis];
      start += index * size;
    });
    return values.subarray(start, start + size);
  };
}

// What a row of attention weights is made of: softmax(q·k / √D) over the keys up to the query.
function attendTo(q, keys) {
  const root = Math.sqrt(q.length);
  const dots = keys.map((k) => k.reduce((sum, value, i) => sum + value * q[i], 0));
  const scores = dots.map((dot) => dot / root);
  const highest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - highest));
  const total = powers.reduce((a, b) => a + b);
  return { root, dots, scores, highest, powers, total, weights: powers.map((p) => p / total) };
}

// A matrix as coloured cells; it is decoration beside the words, so a screen reader skips it.
function cells(parent, className, rows, columns, color) {
  const hidden = { width: columns, height: rows, "aria-hidden": "true" };
  const canvas = element(parent, "canvas", `machine-cells ${className}`, hidden);
  const pen = canvas.getContext("2d");
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      pen.fillStyle = color(row, column);
      pen.fillRect(column, row, 1, 1);
    }
  }
  return canvas;
}

const strip = (parent, values, most, className = "") =>
  cells(parent, `machine-strip ${className}`, 1, values.length, (_, i) => tint(values[i], most));

function bar(parent, share, className = "") {
  const track = element(parent, "span", `machine-bar ${className}`, { "aria-hidden": "true" });
  element(track, "i").style.width = `${100 * Math.max(0, Math.min(1, share))}%`;
}

function say(parent, tag, text, className = "") {
  const made = element(parent, tag, className);
  made.textContent = text;
  return made;
}

function table(parent, className, heads, caption) {
  const made = element(parent, "table", className);
  say(made, "caption", caption);
  const row = element(element(made, "thead"), "tr");
  for (const head of heads) say(row, "th", head).scope = "col";
  return element(made, "tbody");
}

// A row of a table: a name, a few numbers or words, and a bar.
function barRow(body, name, words, share, className = "") {
  const row = element(body, "tr", className);
  say(row, "th", name, "machine-piece").scope = "row";
  for (const word of words) say(row, "td", word, "machine-piece");
  const last = element(row, "td", "machine-grow");
  bar(last, share);
  return [row, last];
}

// What stands in for Python in a page of its own: the same traits, and nobody who listens.
function frozen(state, data) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const values = { problem: "", ...state, data: new DataView(bytes.buffer) };
  const actions = {};
  return {
    frozen: true,
    get: (name) => values[name],
    set: (name, value) => {
      values[name] = value;
      (actions[`change:${name}`] ?? []).forEach((action) => action());
    },
    save_changes: () => {},
    on: (event, action) => (actions[event] ??= []).push(action),
    off: (event, action) => (actions[event] = actions[event].filter((each) => each !== action)),
  };
}

function render({ model, el }) {
  const root = element(el, "div", "sentence-machine", {
    role: "group",
    "aria-label": "A sentence through the machine",
    "data-lm-suppress-shortcuts": "true", // else JupyterLab takes the arrow keys
  });
  const field = model.frozen
    ? say(root, "p", model.get("text"), "machine-sentence")
    : element(element(root, "label", "machine-text"), "input", "", { type: "text" });
  if (!model.frozen) field.before("text");
  const problem = element(root, "p", "machine-problem", { role: "alert" });
  const way = element(root, "div", "machine-way", { role: "group", "aria-label": "stages" });
  const row = element(root, "div", "machine-row", { role: "group", "aria-label": "tokens" });
  const legend = element(root, "small", "");
  const line = element(root, "p", "machine-line", { "aria-live": "polite" });
  const heat = element(root, "label", "machine-heat");
  const slider = element(heat, "input", "", { type: "range", min: 0, max: 20, step: 1 });
  const degree = element(heat, "output");
  slider.before("temperature");
  const panel = element(root, "div", "machine-panel");
  say(root, "p", "Click a token, or press ← and →, to follow another one. Blocks and " +
    "heads are counted from 0. A dot is a blank, ⏎ a line end.", "machine-help");

  const [get, set] = [(name) => model.get(name), (name, value) => {
    model.set(name, value);
    model.save_changes();
  }];
  let [facts, part, rows, chosenKey, productsOpen] = [null, null, new Map(), null, false];
  const at = () => Math.min(get("follow"), facts.ids.length - 1);
  const shape = (name) => facts.shapes[name];
  const named = (place) => `“${facts.labels[place]}”`;

  // Rounded first, as they are shown, so that a sum done by hand agrees.
  const rounded = (name, place) => [...part(name, place)].map((x) => Math.round(1e4 * x) / 1e4);

  function vector(place) {
    const position = rounded("position", place);
    return rounded("token", place).map((x, i) => x + position[i]);
  }

  // The row of one head for one query; each is computed once.
  function attention(head, query) {
    const name = [get("block"), head, query].join();
    if (!rows.has(name)) {
      const keys = facts.ids.slice(0, query + 1);
      const all = keys.map((_, key) => part("k", get("block"), head, key));
      rows.set(name, attendTo(part("q", get("block"), head, query), all));
    }
    return rows.get(name);
  }

  const map = (parent, head, className) =>
    cells(parent, `machine-map ${className}`, facts.ids.length, facts.ids.length, (query, key) =>
      key > query ? "rgb(217, 217, 217)" : shade(attention(head, query).weights[key]));

  // Probabilities of the shown next tokens at the chosen temperature, and of the one that follows.
  function prediction(place) {
    const [heat, low] = [get("temperature"), [...part("low", place)]];
    const stop = Math.round(10 * heat);
    const sum = stop ? Math.exp(part("sums", place)[stop - 1]) : 1;
    const chance = (x) => (stop ? Math.exp(x / heat) / sum : x === 0 ? 1 : 0);
    const last = place === facts.ids.length - 1;
    return { low, sum, chance, shown: low.map(chance),
      follows: last ? null : chance(part("follows")[place]) };
  }

  // Each stage: what stands below the tokens, its name, its drawing in small with a few words, and
  // its panel, which returns the sentence above it.
  const stages = {
    tokens: {
      legend: "its id",
      title: "Tokens",
      small: (box, t) => {
        say(box, "b", facts.labels[t], "machine-piece");
        return `id ${facts.ids[t]}`;
      },
      under: (t) => facts.ids[t],
      draw(t) {
        const steps = element(panel, "p", "machine-steps");
        const all = [["text", named(t)], ["bytes", facts.bytes[t]], ["id", facts.ids[t]],
          ["next stage", `row ${facts.ids[t]} of a table with ${count(facts.vocabulary)} rows`]];
        for (const [name, value] of all) {
          const step = element(steps, "span");
          say(step, "small", name);
          say(step, "b", value, "machine-piece");
        }
        const list = say(panel, "p", "What the model gets of the text: ", "machine-ids");
        facts.ids.forEach((id, place) => {
          say(list, "span", id, place === t ? "machine-here" : "");
          list.append(place < facts.ids.length - 1 ? ", " : "");
        });
        return `The text is cut into ${facts.ids.length} tokens. ${named(t)} is token ${t}, ` +
          `number ${facts.ids[t]} of a vocabulary of ${count(facts.vocabulary)}.`;
      },
    },
    vectors: {
      legend: "the length of its vector",
      title: "Vectors",
      small: (box, t) => {
        const sum = vector(t).slice(0, 24);
        strip(box, sum, Math.max(...sum.map(Math.abs)), "machine-tiny");
        return `${count(facts.width)} numbers`;
      },
      under: (t) => num(part("length", 0)[t]),
      draw(t) {
        const two = ["token", "position"].map((name) => rounded(name, t));
        const sums = facts.ids.map((_, place) => vector(place));
        const sizes = sums.flatMap((values) => values.map(Math.abs)).sort((a, b) => a - b);
        const most = sizes[Math.floor(0.98 * sizes.length)] || 1; // one huge channel hides no other
        const shown = [...two[0].keys()].slice(0, 5);
        const heads = ["", "from", ...shown, `the first ${two[0].length}`];
        const body = table(panel, "machine-sum", heads, "The sum, channel by channel:");
        [["token", `row ${facts.ids[t]}`, two[0]], ["+ position", `row ${t}`, two[1]],
          ["= vector", "", sums[t]]].forEach(([name, from, values]) => {
          const tr = element(body, "tr");
          say(tr, "th", name).scope = "row";
          say(tr, "td", from);
          for (const i of shown) say(tr, "td", num(values[i], 4));
          strip(element(tr, "td"), values, most, "machine-wide");
        });
        const all = element(panel, "div", "machine-all");
        say(all, "p", `All ${sums.length} vectors, one a row: the first ${sums[0].length} of ` +
          `${count(facts.width)} channels. Purple is above 0, orange below.`);
        sums.forEach((values, place) => {
          const one = element(all, "div", place === t ? "machine-here" : "");
          say(one, "span", facts.labels[place], "machine-piece");
          strip(one, values, most, "machine-wide");
        });
        return `The vector of ${named(t)} is a row of the tokens' table plus a row of the ` +
          `positions' table. Its length is ${num(part("length", 0)[t])}.`;
      },
    },
    attention: {
      legend: (t) => `the weight that ${named(t)} gives it`,
      title: "Attention",
      small: (box) => {
        map(box, get("head"), "machine-tiny");
        return `head ${get("head")} of ${shape("q")[1]}`;
      },
      under: (t, key) => (key > t ? "–" : num(attention(get("head"), t).weights[key])),
      draw(t) {
        const [block, head, t1] = [get("block"), get("head"), attention(get("head"), t)];
        const heaviest = t1.weights.indexOf(Math.max(...t1.weights));
        const key = chosenKey !== null && chosenKey <= t ? chosenKey : heaviest;
        const many = shape("q")[1] > 8 ? "machine-many" : "";
        const group = { role: "group", "aria-label": "heads" };
        const heads = element(panel, "div", `machine-heads ${many}`, group);
        for (let each = 0; each < shape("q")[1]; each++) {
          const button = element(heads, "button", "machine-head", {
            type: "button", "data-id": `head ${each}`, "aria-pressed": each === head,
          });
          const small = element(button, "span");
          map(small, each, "");
          element(small, "i").style.cssText = // the row of the followed token
            `top: ${(100 * t) / facts.ids.length}%; height: ${100 / facts.ids.length}%`;
          say(button, "span", `head ${each}`);
          button.addEventListener("click", () => set("head", each));
        }
        const [q, k] = [part("q", block, head, t), part("k", block, head, key)];
        const most = Math.max(...q.map(Math.abs), ...facts.ids.slice(0, t + 1).flatMap((_, each) =>
          Math.max(...part("k", block, head, each).map(Math.abs))));
        const right = element(panel, "div", "machine-right");
        const names = ["key", `k, ${q.length} numbers`, "q·k", `÷ √${q.length}`, "weight"];
        const body = table(right, "machine-keys", names,
          `The query q of ${named(t)}, its product with the chosen key, and all keys k up to it:`);
        const products = q.map((x, i) => x * k[i]);
        const above = { q: [q, most], "q × k": [products, Math.max(...products.map(Math.abs))] };
        for (const [name, [values, end]] of Object.entries(above)) {
          const tr = element(body, "tr", "machine-query");
          say(tr, "th", name).scope = "row";
          strip(element(tr, "td"), values, end, "machine-wide");
        }
        t1.weights.forEach((weight, each) => {
          const tr = element(body, "tr", each === key ? "machine-here" : "");
          const button = say(element(tr, "th", "", { scope: "row" }), "button", facts.labels[each]);
          button.type = "button";
          button.className = "machine-piece";
          button.dataset.id = `key ${each}`;
          button.tabIndex = each === key ? 0 : -1; // one stop of Tab; ↑ ↓ move inside
          button.setAttribute("aria-pressed", each === key);
          tr.addEventListener("click", () => pickKey(each));
          strip(element(tr, "td"), part("k", block, head, each), most, "machine-wide");
          for (const x of [t1.dots[each], t1.scores[each]]) say(tr, "td", num(x));
          const last = element(tr, "td", "machine-weight");
          say(last, "span", num(weight));
          bar(last, weight);
        });
        const sum = element(panel, "div", "machine-check");
        say(sum, "h4", `Check it: ${named(t)} looks at ${named(key)}`);
        const list = element(sum, "ol");
        const terms = [...q].slice(0, 3).map((x, i) => `${factor(x)}·${factor(k[i])}`);
        say(list, "li", `q·k = ${terms.join(" + ")} + … = ${num(t1.dots[key])}, a sum of ` +
          `${q.length} products`);
        say(list, "li", `score = ${num(t1.dots[key])} / √${q.length} = ${num(t1.scores[key])}`);
        say(list, "li", `e^(${num(t1.scores[key])} − ${factor(t1.highest)}) = ` +
          `${num(t1.powers[key], 3)}, where ${num(t1.highest)} is the row's highest score`);
        say(list, "li", `weight = ${num(t1.powers[key], 3)} / ${num(t1.total, 3)} = ` +
          `${num(t1.weights[key], 3)}, divided by the sum over all ${t + 1} keys`);
        say(list, "li", "The head mixes the tokens' values, v, by these weights.");
        const more = element(sum, "details");
        more.open = productsOpen;
        more.addEventListener("toggle", () => (productsOpen = more.open));
        say(more, "summary", `all ${q.length} products`).dataset.id = "products";
        const grid = element(more, "div", "machine-products");
        q.forEach((x, i) => {
          const one = say(grid, "span", `${factor(x)}·${factor(k[i])} = ${num(x * k[i])}`);
          one.style.borderLeftColor = tint(x * k[i], 2);
        });
        return `Block ${block}, head ${head}: ${named(t)} looks most at ` +
          `${heaviest === t ? "itself" : named(heaviest)}, weight ${num(t1.weights[heaviest])}.`;
      },
    },
    mlp: {
      legend: "the share of neurons that fire",
      title: "MLP",
      small: (box, t) => {
        const fired = part("fired", get("block"), t);
        fired.forEach((x) => bar(box, x / fired[0], "machine-tiny"));
        return `${count(facts.hidden)} neurons`;
      },
      under: (t, place) => percent(part("share", get("block"))[place]),
      draw(t) {
        const [block, fired] = [get("block"), part("fired", get("block"), t)];
        const most = Math.max(...part("fired", block));
        const body = table(panel, "machine-units", ["neuron", "value", ""],
          `The ${fired.length} strongest of ${count(facts.hidden)} neurons:`);
        fired.forEach((x, i) => {
          const unit = facts.units[block][t][i];
          const [, last] = barRow(body, unit, [num(x)], x / most);
          const also = facts.labels.filter((_, place) =>
            place !== t && facts.units[block][place].includes(unit));
          if (also.length) say(last, "small", `also for “${also.slice(0, 5).join("” “")}”`);
        });
        const half = 2 * block + 1;
        say(panel, "p", `${count(facts.width)} numbers become ${count(facts.hidden)}, negative ` +
          `ones are pushed towards 0, and ${count(facts.width)} come out. They are added to the ` +
          `vector, whose length was ${num(part("length", half)[t])}. What is added has length ` +
          `${num(part("added", half)[t])}, the sum ${num(part("length", half + 1)[t])}.`);
        return `Block ${block}: ${percent(part("share", block)[t])} of the neurons fire for ` +
          `${named(t)}. The MLP sees no other token.`;
      },
    },
    stream: {
      legend: "the length of its vector at the end",
      title: "Stream",
      small: (box, t) => {
        const lengths = facts.lens.map((_, state) => part("length", state)[t]);
        const bars = element(box, "span", "machine-growth", { "aria-hidden": "true" });
        lengths.forEach((x) => {
          element(bars, "i").style.height = `${(100 * x) / Math.max(...lengths)}%`;
        });
        return `${shape("q")[0]} blocks`;
      },
      under: (t, place) => num(part("length", facts.lens.length - 1)[place], 1),
      draw(t) {
        const lengths = facts.lens.map((_, state) => part("length", state)[t]);
        const most = Math.max(...lengths);
        const heads = ["after", "added", "length", "would say", ""];
        const body = table(panel, "machine-stream", heads, "Each half of a block adds a vector. " +
          "The word is what the model would say if it ended there:");
        lengths.forEach((length, state) => {
          const block = Math.floor((state - 1) / 2);
          const name = state ? `block ${block}, ${state % 2 ? "attention" : "MLP"}` : "embedding";
          const added = state ? num(part("added", state - 1)[t]) : "";
          const words = [added, num(length), facts.lens[state][t]];
          const chosen = state && block === get("block") ? "machine-here" : "";
          const [tr] = barRow(body, name, words, length / most, chosen);
          if (state) tr.addEventListener("click", () => set("block", block));
        });
        const end = facts.lens.length - 1;
        return `The vector of ${named(t)} grows from length ${num(lengths[0])} to ` +
          `${num(lengths[end])}, and says “${facts.lens[end][t]}” in the end.`;
      },
    },
    next: {
      legend: "how probable it was for the model after the tokens before it",
      title: "Next token",
      small: (box, t) => {
        say(box, "b", facts.next[t][0], "machine-piece");
        return percent(prediction(t).shown[0]);
      },
      under: (t, place) => (place ? percent(prediction(place - 1).follows) : "–"),
      draw(t) {
        const [{ low, sum, chance, shown, follows }, best] = [prediction(t), part("best")[t]];
        const heat = get("temperature");
        const heads = ["token", "logit", `÷ ${num(heat, 1)}`, "probability", ""];
        const body = table(panel, "machine-next", heads,
          `After ${named(t)} may come (framed: what the text goes on with):`);
        const makeRow = (label, x, className) => {
          const words = [num(best + x), heat ? num((best + x) / heat) : "", percent(chance(x))];
          barRow(body, label, words, chance(x), className);
        };
        const [goesOn, rank] = [facts.labels[t + 1], facts.ranks[t]];
        low.forEach((x, i) => makeRow(facts.next[t][i], x, rank === i + 1 ? "machine-here" : ""));
        if (rank > low.length) makeRow(goesOn, part("follows")[t], "machine-here");
        const listed = shown.reduce((a, b) => a + b) + (rank > low.length ? follows : 0);
        const check = heat
          ? `Check it: e^((${num(best + low[1])} − ${num(best)}) / ${num(heat, 1)}) = ` +
            `${num(Math.exp(low[1] / heat), 3)}. Divided by ${num(sum, 3)}, the sum over all ` +
            `${count(facts.vocabulary)} tokens: ${num(shown[1], 3)} for “${facts.next[t][1]}”.`
          : "At temperature 0 the largest logit takes all.";
        say(panel, "p", `All other tokens together: ${percent(Math.max(0, 1 - listed))}. ${check}`);
        const tail = follows === null ? "Here the text ends."
          : `The text goes on with “${goesOn}”, number ${count(rank)}: ${percent(follows)}.`;
        const said = `“${facts.next[t][0]}”, ${percent(shown[0])}`;
        return `After ${named(t)} the model says ${said}. ${tail}`;
      },
    },
  };
  function pickKey(key) {
    chosenKey = Math.max(0, Math.min(at(), key));
    draw();
    panel.querySelector(`[data-id="key ${chosenKey}"]`)?.focus({ preventScroll: true });
  }

  // The strip: buttons with arrows between them; attention and MLP stand in the box of a block.
  const buttons = {};
  const blocks = element(way, "div", "machine-block");
  const chooser = element(element(blocks, "label"), "select");
  chooser.before("block");
  for (const [name, { title }] of Object.entries(stages)) {
    const inside = name === "attention" || name === "mlp";
    const button = element(inside ? blocks : way, "button", "machine-stage", {
      type: "button", "data-stage": name,
    });
    say(button, "span", title, "machine-title");
    element(button, "span", "machine-small");
    say(button, "small", "");
    button.addEventListener("click", () => set("stage", name));
    buttons[name] = button;
    if (name === "vectors") way.append(blocks);
  }

  function draw() {
    const active = root.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const [t, open] = [at(), stages[get("stage")] ?? stages.tokens];
    for (const [name, button] of Object.entries(buttons)) {
      button.setAttribute("aria-pressed", stages[name] === open);
      button.children[1].replaceChildren();
      button.children[2].textContent = stages[name].small(button.children[1], t);
    }
    [...row.children].forEach((button, place) => {
      const value = open.under.length > 1 ? open.under(t, place) : open.under(place);
      button.lastChild.textContent = value;
      button.setAttribute("aria-pressed", place === t);
      button.tabIndex = place === t ? 0 : -1; // one stop of Tab; ← → move inside
      const weight = open === stages.attention && place <= t ? Number(value) : 0;
      button.style.background = weight ? shade(weight) : "";
      button.style.color = weight > 0.25 ? "#fff" : weight ? "#111" : "";
      button.classList.toggle("machine-later", open === stages.attention && place > t);
    });
    chooser.value = get("block");
    slider.value = Math.round(10 * get("temperature"));
    degree.textContent = num(get("temperature"), 1);
    heat.hidden = open !== stages.next;
    const words = open.legend instanceof Function ? open.legend(t) : open.legend;
    legend.textContent = `Below each token: ${words}.`;
    panel.replaceChildren();
    panel.className = `machine-panel machine-open-${get("stage")}`;
    line.textContent = open.draw(t);
    root.dataset.stage = get("stage");
    root.dataset.follow = t;
    if (active) panel.querySelector(`[data-id="${active}"]`)?.focus({ preventScroll: true });
  }

  function rebuild() {
    [facts, rows, chosenKey] = [get("facts"), new Map(), null];
    part = unpack(get("data"), facts.shapes);
    if (!model.frozen) field.value = get("text");
    row.replaceChildren();
    facts.labels.forEach((label, place) => {
      const button = element(row, "button", "machine-token", { type: "button" });
      say(button, "span", label, "machine-piece");
      element(button, "small");
      button.addEventListener("click", () => set("follow", place));
    });
    chooser.replaceChildren();
    for (let block = 0; block < shape("q")[0]; block++) say(chooser, "option", block).value = block;
    draw();
  }

  function complain() {
    problem.textContent = get("problem");
    problem.hidden = !get("problem");
  }

  if (!model.frozen) field.addEventListener("change", () => set("text", field.value));
  chooser.addEventListener("change", () => set("block", Number(chooser.value)));
  slider.addEventListener("input", () => set("temperature", Number(slider.value) / 10));
  root.addEventListener("keydown", (event) => {
    const [t, last, { key, target }] = [at(), facts.ids.length - 1, event];
    if (target === field && key === "Enter") set("text", field.value);
    if (target === field || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[key];
    const to = { ArrowLeft: t - 1, ArrowRight: t + 1, Home: 0, End: last }[key];
    const within = (value, most) => Math.max(0, Math.min(most, value));
    if (target === slider && (by || to !== undefined)) {
      // JupyterLab takes the arrow keys from all that is no text, so their work is done here.
      const up = key.endsWith("Up") || key.endsWith("Down") ? -by : by;
      const stop = { Home: 0, End: 20 }[key] ?? within(Number(slider.value) + up, 20);
      set("temperature", stop / 10);
    } else if (target === chooser && by) {
      set("block", within(get("block") + by, shape("q")[0] - 1));
    } else if (get("stage") === "attention" && /ArrowUp|ArrowDown/.test(key)) {
      const current = panel.querySelector("tr.machine-here button").dataset.id.slice(4);
      pickKey(Number(current) + by);
    } else if (to !== undefined && target !== chooser) {
      set("follow", within(to, last));
      if (target.parentNode === row) row.children[at()].focus({ preventScroll: true });
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });

  const [soon, again] = [once(rebuild), once(draw)];
  rebuild();
  complain();
  const looks = { stage: again, follow: again, block: again, head: again, temperature: again };
  return follow(model, { facts: soon, data: soon, problem: complain, ...looks });
}

export default { render };
