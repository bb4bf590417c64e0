// What the drawings of several widgets share; it stands before each of them.

const NS = "http://www.w3.org/2000/svg";

function element(parent, tag, className, attributes = {}) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
  return made;
}

function drawn(parent, tag, attributes = {}, text = "") {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== "") made.textContent = text;
  parent.append(made);
  return made;
}

// Traits that are sent together arrive as several events: act once, when all are there.
function once(action) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      action();
    });
  };
}

// Act on changes of traits; what is returned ends it.
function follow(model, changes) {
  for (const [name, action] of Object.entries(changes)) model.on(`change:${name}`, action);
  return () => {
    for (const [name, action] of Object.entries(changes)) model.off(`change:${name}`, action);
  };
}

// White for 0, dark blue for 1; the square root lets small weights be seen.
function shade(weight) {
  const part = Math.sqrt(Math.min(1, Math.max(0, weight)));
  const mix = (from, to) => Math.round(from + (to - from) * part);
  return `rgb(${mix(255, 0)}, ${mix(255, 60)}, ${mix(255, 120)})`;
}

function short(label) {
  return label.length > 12 ? label.slice(0, 11) + "…" : label;
}

