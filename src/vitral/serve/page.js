"use strict";

const $ = (id) => document.getElementById(id);
const LONGEST = 1600; // pixels of the picture on the page; the server gets the file itself
let facts = null;
let turn = 0; // of two answers under way, the later question counts
let shown = null;
let lastFile = null;

function headers() {
  const token = sessionStorage.getItem("token");
  return token ? { authorization: "Bearer " + token } : {};
}

function megabytes(bytes) {
  return (bytes / 1e6).toLocaleString("en", { maximumFractionDigits: 1 }) + " MB";
}

async function start() {
  let answer;
  try {
    answer = await fetch("model", { headers: headers() });
  } catch {
    return problem("The server cannot be reached.");
  }
  if (answer.status === 401) return askForToken();
  if (!answer.ok) return problem((await answer.json()).message);
  facts = await answer.json();
  $("access").hidden = true;
  $("model").textContent = facts.model;
  document.title = facts.model + " · vitral";
  const { outputs, names } = facts.display;
  $("facts").textContent = `${outputs}${names && ": " + names} · ${facts.image_size[1]} × `
    + `${facts.image_size[0]} pixels · weights ${facts.hash}`;
  $("limits").textContent = "JPEG, PNG, WEBP, BMP, GIF or TIFF, up to "
    + megabytes(facts.max_bytes);
}

function askForToken() {
  $("access").hidden = false;
  $("status").hidden = true;
  $("token").focus();
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = false;
  $("status").hidden = true;
  $("answer").hidden = true;
}

function busy(text) {
  $("status").textContent = text;
  $("status").hidden = false;
  $("problem").hidden = true;
  $("answer").hidden = true;
}

async function show(file) {
  const mine = ++turn;
  lastFile = file;
  shown = null;
  $("figure").hidden = true;
  $("controls").hidden = true;
  $("drop").classList.add("small-drop");
  $("drop").querySelector(".big").textContent = "Drop another image";
  if (facts && file.size > facts.max_bytes) {
    return problem(`${file.name} has ${megabytes(file.size)}; the server takes at most `
      + `${megabytes(facts.max_bytes)}. Choose a smaller image.`);
  }
  busy("The model is looking …");
  const [answer, picture] = await Promise.all([ask(file), drawable(file)]);
  if (mine !== turn) return;
  if (answer === null) return askForToken();
  if (answer.code === "no_features") {
    // Another model answers since: without a map.
    facts = null;
    known = start();
    return show(file);
  }
  if (answer.message) return problem(answer.message);
  if (!facts || answer.model.hash !== facts.hash) {
    known = start();
    await known;
    if (mine !== turn || !facts) return;
  }
  const drawn = facts.display.drawn && await askDrawn(file);
  if (mine !== turn) return;
  draw(file, drawn || picture, answer.map);
  tell(answer);
}

async function ask(file) {
  await known;
  const query = facts && facts.maps ? "predict?map=1" : "predict";
  const kind = { "content-type": "application/octet-stream" };
  try {
    const reply = await fetch(query, {
      method: "POST", body: file, headers: { ...headers(), ...kind },
    });
    if (reply.status === 401) return null;
    return await reply.json();
  } catch {
    return { message: "The server did not answer: it may have stopped, or the image "
      + "may have changed on the disk. Try again." };
  }
}

// The picture with the answer on it, as the task draws it; null where it cannot be had.
async function askDrawn(file) {
  const kind = { "content-type": "application/octet-stream", accept: facts.display.drawn };
  try {
    const reply = await fetch("predict", {
      method: "POST", body: file, headers: { ...headers(), ...kind },
    });
    return reply.ok ? await createImageBitmap(await reply.blob()) : null;
  } catch {
    return null;
  }
}

async function drawable(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return null; // the server reads more formats than a browser shows
  }
}

function draw(file, picture, map) {
  $("figure").hidden = false;
  $("caption").textContent = file.name
    + (picture ? ` · ${picture.width} × ${picture.height}` : " · your browser cannot show this format");
  const canvas = $("image");
  const size = picture ? [picture.width, picture.height] : [400, 300];
  const scale = Math.min(1, LONGEST / Math.max(...size));
  canvas.width = Math.max(1, Math.round(size[0] * scale));
  canvas.height = Math.max(1, Math.round(size[1] * scale));
  canvas.classList.toggle("tiny", Math.max(...size) < 200);
  $("stage").style.setProperty("--ratio", canvas.width / canvas.height);
  canvas.setAttribute("aria-label", "The image " + file.name);
  if (picture) canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  shown = map || null;
  $("controls").hidden = !shown;
  $("map").hidden = !shown;
  if (!shown) return;
  heat(shown);
  $("about").textContent = (shown.method === "rollout"
    ? "What reached the answer, by attention rollout"
    : `What spoke for ${facts.display.explained}, by Grad-CAM`)
    + `: ${shown.columns} × ${shown.rows} patches`;
}

// The colours of "inferno" at seven places, from dark to bright.
const COLOURS = [[0, 0, 4], [51, 10, 95], [122, 28, 109], [188, 55, 84], [237, 105, 37],
  [251, 181, 26], [252, 255, 164]];

function colour(value) {
  const at = Math.min(Math.max(value, 0), 1) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(at), COLOURS.length - 2);
  return COLOURS[low].map((part, i) => part + (at - low) * (COLOURS[low + 1][i] - part));
}

function heat(map) {
  const canvas = $("map");
  const small = document.createElement("canvas");
  small.width = map.columns;
  small.height = map.rows;
  const pixels = new ImageData(map.columns, map.rows);
  map.values.flat().forEach((value, i) => {
    // Where the model hardly looks, the picture shows.
    pixels.data.set([...colour(value), 255 * (0.2 + 0.8 * value)], 4 * i);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = map.columns * 16;
  canvas.height = map.rows * 16;
  const brush = canvas.getContext("2d");
  brush.imageSmoothingQuality = "high";
  brush.drawImage(small, 0, 0, canvas.width, canvas.height);
  const [left, top, right, bottom] = map.box.map((edge) => 100 * edge);
  Object.assign(canvas.style, { left: left + "%", top: top + "%",
    width: right - left + "%", height: bottom - top + "%" });
  fade();
}

function fade() {
  $("map").style.opacity = $("strength").value / 100;
}

function percent(share) {
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return (100 * share).toLocaleString("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 }) + " %";
}

function tell(answer) {
  $("status").hidden = true;
  const { title, placeholder, bars, interval, interval_name: called, fields } = facts.display;
  $("headline").textContent = title && (text(answer[title]) || placeholder);
  $("headline").hidden = !title;
  $("bars").replaceChildren(...Object.entries(answer[bars] || {})
    // JSON's object loses the order of names that are numbers.
    .sort((one, other) => other[1] - one[1]).map(bar));
  range(called, answer[title], ...interval.map((name) => answer[name]));
  const listed = title || bars ? [] : fields;
  $("fields").replaceChildren(...listed.flatMap((name) => entries(name, answer[name])).flatMap(term));
  $("notes").textContent = answer.notes.join(" · ");
  const { queue_ms: queue, model_ms: model, batch } = answer.timing;
  $("timing").textContent = `answered in ${Math.round(queue + model)} ms`
    + (batch > 1 ? `, in a batch of ${batch}` : "");
  $("answer").hidden = false;
}

function text(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return value.toLocaleString("en", { maximumSignificantDigits: 4 });
  return typeof value === "string" ? value : JSON.stringify(value);
}

function range(name, value, low, high) {
  const known = [value, low, high].every((one) => typeof one === "number") && low < high;
  $("interval").hidden = !known;
  if (!known) return;
  // The band takes the middle of the track, as page.css says.
  const place = 10 + 80 * (value - low) / (high - low);
  $("interval").querySelector(".mark").style.left = Math.min(Math.max(place, 0), 100) + "%";
  $("interval").querySelector(".name").textContent = name;
  $("interval").querySelector(".low").textContent = text(low);
  $("interval").querySelector(".high").textContent = text(high);
}

function entries(name, value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return [[name, value]];
  return Object.entries(value).map(([key, one]) => [`${name} ${key}`, one]);
}

function term([name, value]) {
  const parts = [document.createElement("dt"), document.createElement("dd")];
  parts[0].textContent = name;
  parts[1].textContent = text(value) || "–";
  return parts;
}

function bar([name, share]) {
  const item = document.createElement("li");
  const row = document.createElement("div");
  const title = document.createElement("span");
  const value = document.createElement("span");
  const track = document.createElement("div");
  const fill = document.createElement("div");
  row.className = "row";
  title.className = "name";
  value.className = "share";
  track.className = "track";
  fill.className = "fill";
  title.textContent = name;
  value.textContent = percent(share);
  fill.style.width = 100 * share + "%";
  track.append(fill);
  row.append(title, value);
  item.append(row, track);
  return item;
}

function files(transfer) {
  return [...transfer.items].filter((item) => item.kind === "file").map((item) => item.getAsFile());
}

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const [first] = files(event.dataTransfer);
  if (first) show(first);
});
document.addEventListener("paste", (event) => {
  const [first] = files(event.clipboardData);
  if (first) show(first);
});
$("file").addEventListener("change", () => {
  const [first] = $("file").files;
  if (first) show(first);
  $("file").value = ""; // so that the same file can be chosen again
});
$("strength").addEventListener("input", fade);
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  known = start();
  if (lastFile) show(lastFile);
});
let known = start();
