// The page: images and frames in, drawn people and their description out. `start` ties it to what finds the people.

const $ = (name) => document.getElementById(name);
const ANNOUNCE_MS = 2000;
const DESCRIBED = 20;
const STAGES = { decode: "decoding", letterbox: "letterbox", queue: "waiting", inference: "inference", total: "in all" };
const WEBCAM = {
  NotAllowedError: "The browser was not allowed to use the webcam.",
  NotFoundError: "This machine has no webcam.",
  NotReadableError: "The webcam cannot be read. Another program may be using it.",
};

let engine;
let model;
let shown = null;
let camera = null;
let turn = 0;
let announced = 0;
let lastFile = null;
let ready = Promise.resolve(false);

const options = () => ({
  scoreThr: Number($("score").value),
  track: $("track")?.checked ?? false,
  smooth: $("smooth")?.checked ?? false,
});

function say(text, { bad = false } = {}) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

const count = (people) => (people.length === 1 ? "1 person" : `${people.length || "No"} people`);

function whereIs([left, top, right, bottom], { width, height }) {
  const [x, y] = [(left + right) / 2 / width, (top + bottom) / 2 / height];
  const across = x < 1 / 3 ? "left" : x > 2 / 3 ? "right" : "centre";
  return y < 1 / 3 ? `top ${across}` : y > 2 / 3 ? `bottom ${across}` : across;
}

function described(person, index, result) {
  const name = person.track_id == null ? `Person ${index + 1}` : `Person ${index + 1}, id ${person.track_id}`;
  const seen = person.keypoints.filter(([, , score]) => score >= Number($("keypoint").value)).length;
  return `${name}: ${whereIs(person.box, result)}, score ${person.score.toFixed(2)}, ${seen} of ${person.keypoints.length} keypoints`;
}

function render() {
  const { result, image } = shown;
  const canvas = $("stage");
  [canvas.width, canvas.height] = [result.width, result.height];
  const context = canvas.getContext("2d");
  if (image) context.drawImage(image, 0, 0, result.width, result.height);
  const drawing = { keypointThr: Number($("keypoint").value), boxes: $("boxes").checked, labels: $("labels").checked };
  drawPeople(context, result, model.skeleton, drawing);
  const lines = result.people.map((person, index) => described(person, index, result));
  const rest = lines.length > DESCRIBED ? ` And ${lines.length - DESCRIBED} more.` : "";
  canvas.setAttribute("aria-label", `${count(result.people)}. ${lines.slice(0, DESCRIBED).join(". ")}${rest}`);
  $("people").replaceChildren(
    ...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })),
  );
  const times = Object.entries(STAGES).filter(([stage]) => Number.isFinite(result.timings_ms?.[stage]));
  const rows = times.map(([stage, name]) => [name, `${result.timings_ms[stage].toFixed(1)} ms`]);
  if (result.rate) rows.push(["frames", `${result.rate.toFixed(1)} a second`]);
  if (result.batch > 1) rows.push(["images in the batch", String(result.batch)]);
  facts($("timings"), rows);
  $("result").hidden = false;
  $("empty").hidden = true;
  $("save").disabled = false;
}

function facts(list, rows) {
  list.replaceChildren(
    ...rows.flatMap(([name, value]) => [
      Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: value }),
    ]),
  );
}

/** Draws a result and tells of it; a camera's are told when the number of people changes. */
function show(result, image, { live = false } = {}) {
  shown = { result, image };
  render();
  const now = performance.now();
  const found = `${count(result.people)} found`;
  const text = live ? `${found}.` : `${found} in ${Math.round(result.timings_ms.total)} ms.`;
  if (!live || (text !== $("status").textContent && now - announced > ANNOUNCE_MS)) {
    announced = now;
    say(text);
  }
  document.dispatchEvent(new CustomEvent("people", { detail: result }));
}

function showModel(now) {
  model = now;
  $("name").textContent = model.name;
  const rows = [
    ["file", model.file],
    ["runtime", model.backend],
    ["device", model.device],
    ["precision", model.precision],
    ["input", `${model.input_hw[1]} x ${model.input_hw[0]} pixels`],
    ["keypoints", `${model.skeleton.keypoints.length} (${model.skeleton.name})`],
  ];
  facts($("model"), rows.filter(([, value]) => value));
  $("note").textContent = model.note ?? "";
  $("note").hidden = !model.note;
}

/** The key is kept in memory only. Resolves once it was given; without one, the next image or webcam asks again. */
function askForKey() {
  const dialog = $("key-dialog");
  dialog.showModal();
  return new Promise((given, refused) => {
    $("key-form").onsubmit = () => {
      engine.setKey($("key").value);
      $("key").value = "";
      given();
    };
    dialog.oncancel = () => refused(Object.assign(new Error("No key was given. Choose an image to give it."), { again: true }));
  });
}

/** Does something that may need a key, until it is given the right one. */
async function authorised(work) {
  for (;;) {
    try {
      return await work();
    } catch (failure) {
      if (!failure.unauthorised || !engine.setKey) throw failure;
      say("The server asks for a key.");
      await askForKey();
    }
  }
}

/** The pixels of an image, upright, without colour conversion; null where the browser cannot read it. */
async function decoded(file) {
  const begun = performance.now();
  try {
    const how = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };
    const bitmap = await createImageBitmap(file, how);
    const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
    canvas.getContext("2d", { willReadFrequently: true }).drawImage(bitmap, 0, 0);
    bitmap.close();
    return { canvas, milliseconds: performance.now() - begun };
  } catch {
    return null;
  }
}

async function open(file) {
  stopCamera();
  const mine = ++turn;
  $("main").setAttribute("aria-busy", "true");
  const name = file.name || "the image";
  say(model ? `Looking at ${name} ...` : `Loading the model, then looking at ${name} ...`);
  try {
    if (!(await ready) && !(await (ready = openModel()))) return;
    const image = await decoded(file);
    if (mine !== turn) return;
    const result = await authorised(() => engine.find(file, image, options(), model));
    if (mine !== turn) return;
    lastFile = file;
    show(result, image?.canvas);
  } catch (failure) {
    if (mine === turn) say(failure.message, { bad: true });
  } finally {
    if (mine === turn) $("main").setAttribute("aria-busy", "false");
  }
}

function openFirst(files) {
  const file = [...files].find((one) => one.type.startsWith("image/") || !one.type);
  if (file) open(file);
  else if (files.length) say("That is not an image.", { bad: true });
}

function stopCamera() {
  if (!camera) return;
  camera.stream?.close();
  for (const track of camera.media?.getTracks() ?? []) track.stop();
  camera = null;
  $("webcam").setAttribute("aria-pressed", "false");
  $("webcam").textContent = "Start webcam";
}

async function startCamera() {
  turn++;
  const mine = { media: null, stream: null };
  camera = mine;
  $("webcam").setAttribute("aria-pressed", "true");
  $("webcam").textContent = "Stop webcam";
  say("Opening the webcam ...");
  announced = -ANNOUNCE_MS;
  try {
    if (!navigator.mediaDevices) throw new Error("A browser gives a webcam to pages from https or localhost only.");
    mine.media = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 } }, audio: false });
    const video = Object.assign(document.createElement("video"), { srcObject: mine.media, muted: true, playsInline: true });
    await video.play();
    if (camera !== mine) return release(mine);
    lastFile = null;
    mine.stream = await authorised(() => engine.stream(options()));
    if (camera !== mine) return release(mine);
    await Promise.all(Array.from({ length: mine.stream.capacity }, () => pump(mine, video)));
  } catch (failure) {
    if (camera !== mine) return release(mine);
    stopCamera();
    say(WEBCAM[failure.name] ?? failure.message, { bad: true });
  }
}

function release({ media, stream }) {
  stream?.close();
  for (const track of media?.getTracks() ?? []) track.stop();
}

/** Sends one frame after the other: the next when the answer to the last is there. */
async function pump(mine, video) {
  while (camera === mine) {
    const frame = Object.assign(document.createElement("canvas"), { width: video.videoWidth, height: video.videoHeight });
    frame.getContext("2d", { willReadFrequently: true }).drawImage(video, 0, 0);
    const stream = mine.stream;
    try {
      const { shown: image, ...result } = await stream.find(frame);
      if (camera !== mine) return;
      const now = performance.now();
      const rate = 1000 / (now - mine.last);
      if (mine.last) mine.rate = mine.rate ? 0.8 * mine.rate + 0.2 * rate : rate;
      mine.last = now;
      show({ ...result, rate: mine.rate }, image, { live: true });
    } catch (failure) {
      if (camera !== mine || stream !== mine.stream) continue;
      if (!failure.brief) throw failure;
      say(failure.message, { bad: true });
      await new Promise((done) => setTimeout(done, 100));
    }
    await new Promise((done) => requestAnimationFrame(done));
  }
}

/** Another threshold or tracking: the camera's stream is opened anew, an image looked at again. */
async function changed() {
  if (camera?.stream) {
    const mine = camera;
    const before = mine.stream;
    try {
      mine.stream = await authorised(() => engine.stream(options()));
      before.close();
    } catch (failure) {
      say(failure.message, { bad: true });
    }
  } else if (lastFile) {
    await open(lastFile);
  }
}

function save() {
  $("stage").toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "people.png" });
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

function listen() {
  $("file").addEventListener("change", () => {
    openFirst($("file").files);
    $("file").value = "";
  });
  $("webcam").addEventListener("click", () => (camera ? (stopCamera(), say("The webcam is off.")) : startCamera()));
  $("save").addEventListener("click", save);
  for (const name of ["score", "track", "smooth"]) $(name)?.addEventListener("change", changed);
  for (const name of ["score", "keypoint"]) {
    $(name).addEventListener("input", () => ($(`${name}-value`).textContent = Number($(name).value).toFixed(2)));
  }
  for (const name of ["keypoint", "boxes", "labels"]) $(name).addEventListener("input", () => shown && render());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && camera) $("webcam").click();
  });
  document.addEventListener("paste", (event) => openFirst(event.clipboardData.files));
  const drop = $("drop");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    openFirst(event.dataTransfer.files);
  });
}

/** Opens the model; an image that is given meanwhile waits for it. */
async function start(given) {
  engine = given;
  // On a phone the image comes first.
  $("settings").open = !matchMedia("(max-width: 700px)").matches;
  say("Loading the model ...");
  ready = openModel();
  listen();
  if ((await ready) && !turn) say("Ready. Choose, drop or paste an image, or start the webcam.");
}

/** Whether the model could be opened. */
async function openModel() {
  try {
    showModel(await authorised(() => engine.open()));
  } catch (failure) {
    turn++;
    $("file").disabled = !failure.again;
    say(failure.message, { bad: true });
    $("main").setAttribute("aria-busy", "false");
    return false;
  }
  $("score").min = Math.min(model.score_thr, 0.3);
  for (const control of document.querySelectorAll("#controls [disabled]")) control.disabled = control.id === "save";
  return true;
}
