// The customer's page: whose data it holds, how it is kept fresh, and which part shows what.
import * as api from "/dashboard/assets/api.js";
import { announce, h, icon, place } from "/dashboard/assets/dom.js";
import { errorText, notice } from "/dashboard/assets/errors.js";
import { run } from "/dashboard/assets/frame.js";
import { historyCard } from "/dashboard/assets/history.js";
import { t } from "/dashboard/assets/i18n.js";
import { licenceCard } from "/dashboard/assets/licence.js";
import { openerCard } from "/dashboard/assets/opener-card.js";
import { planCard } from "/dashboard/assets/plan.js";
import { follow } from "/dashboard/assets/stream.js";
import { ticket } from "/dashboard/assets/ticket.js";

const FAST = 2000; // polling while something is being made
const SLOW = 20000; // and while nothing is; also the net under a live connection

const isActive = (job) => job?.state === "queued" || job?.state === "processing";

// The devices that the account knows of: those the API lists, and what files and jobs name.
async function findDevices(jobs) {
  const found = new Map();
  const add = (item) => item?.device_hash && !found.has(item.device_hash) && found.set(item.device_hash, item);
  const [devices, files] = await Promise.all([
    // A vendor's own policies may hide them.
    api.get("/dashboard/devices.json").then((all) => all.items, (error) => { if (error.status !== 403) throw error; return []; }),
    api.list("/api/ate/files"),
  ]);
  devices.forEach(add);
  files.forEach(add);
  jobs.forEach(add);
  return [...found.values()];
}

function open(app, config, leave) {
  const stop = new AbortController();
  const jobs = new Map(); // the last job that events told, by device and template
  const data = { devices: null, device: null, status: null, plans: null, license: null,
    fault: null, mode: "connecting", template: config.default_template };
  let timer;
  let busy = false;

  const parts = layout(app);
  const opener = openerCard(parts.opener, () => ({ device: data.device, signers: config.signers, license: licenseOf }));
  const licence = licenceCard(parts.licence, () => data, licenseOf);
  const history = historyCard(parts.history, () => data);

  // Each part is drawn when what it shows has changed: whoever reads it or stands in it is left in peace.
  const drawn = {};
  function draw(all = false) {
    const part = (name, key, show) => {
      const now = JSON.stringify(key);
      if (!all && drawn[name] === now) return;
      drawn[name] = now;
      show();
    };
    const { device, devices, status, license, plans, fault, mode } = data;
    const none = devices?.length === 0;
    for (const name of ["licence", "plan", "opener", "history"]) parts[name].hidden = none;
    part("alert", [fault?.code, fault?.details, fault?.requestId], () => place(parts.alert, fault && notice("bad", t("error_title"), errorText(fault), {
      id: fault.requestId, action: h("button", { type: "button", "data-key": "retry", onclick: load }, icon("again"), t("retry")) })));
    part("devices", [devices, device], drawDevices);
    part("ticket", [device, devices, status && { ...status, download_url: null }, mode], () => ticket(parts.ticket, data, { download, generate }));
    part("plan", [device, devices, license?.plan, plans, Boolean(status)], () => planCard(parts.plan, data));
    part("licence", [device, license, Boolean(status)], () => licence.draw());
  }

  function drawDevices() {
    const several = data.devices && data.devices.length > 1;
    place(parts.devices, several && h("fieldset", { class: "devices" },
      h("legend", {}, t("devices")),
      data.devices.map(({ device_hash: hash, device_model: model }) => h("label", {},
        h("input", { type: "radio", name: "device", value: hash, checked: hash === data.device, "data-key": `device-${hash}`,
          onchange: () => choose(hash) }),
        icon("device"), h("span", {}, h("b", {}, hash), model && h("small", {}, model))))));
  }

  // Raises nothing: what goes wrong is shown, and a token that is over ends the visit.
  async function guarded(step) {
    try {
      await step();
      if (data.fault) { data.fault = null; draw(); }
    } catch (error) {
      if (stop.signal.aborted) return;
      if (error.status === 401) return leave(error.code === "token_expired" ? "expired" : "refused");
      if (error.status === 403 && error.code === "wrong_role") return leave("refused");
      if (!(error instanceof api.ApiError)) console.warn(error);
      data.fault = error;
      draw();
      schedule();
    }
  }

  const load = () => guarded(async () => {
    const [devices, plans] = await Promise.all([findDevices(jobs.values()), api.list("/api/ate/plans")]);
    data.plans = plans;
    data.devices = devices;
    if (!devices.some((one) => one.device_hash === data.device)) data.device = devices[0]?.device_hash ?? null;
    if (!data.device) { data.status = null; draw(); return schedule(); }
    await loadDevice();
  });

  async function loadDevice() {
    const device = data.device;
    const [status, license] = await Promise.all([
      api.status(device, data.template),
      api.license(device).then((value) => ({ value }), (error) => ({ error })),
    ]);
    if (device !== data.device || stop.signal.aborted) return;
    data.license = license.value ?? null;
    take(status);
    history.load();
  }

  async function licenseOf(device) {
    if (device === data.device && data.license) return data.license;
    return api.license(device);
  }

  // A status in, with what an event said since when that is newer.
  function take(status) {
    const before = data.status;
    data.status = status;
    if (before && before.device_hash === status.device_hash) {
      if (isActive(before.job) && !isActive(status.job)) {
        if (status.job?.state === "failed") announce(t("now_failed"));
        else if (status.is_ready) announce(t("now_ready"));
      }
    }
    draw();
    schedule();
  }

  const refresh = () => guarded(async () => {
    if (!data.device) return load();
    const device = data.device;
    const status = await api.status(device, data.template);
    if (device === data.device) take(status);
  });

  function schedule() {
    clearTimeout(timer);
    if (stop.signal.aborted) return;
    const fast = data.mode !== "live" && (isActive(data.status?.job) || !data.device);
    timer = setTimeout(() => { if (document.hidden) schedule(); else (data.device ? refresh() : load()); },
      data.fault ? 5000 : fast ? FAST : SLOW);
  }

  function choose(device) {
    data.device = device;
    data.status = data.license = null;
    licence.hide();
    opener.clear();
    draw();
    guarded(loadDevice);
  }

  function onEvent({ name, data: text }) {
    if (name !== "job") return;
    let job;
    try { job = JSON.parse(text); } catch { return; }
    jobs.set(`${job.device_hash} ${job.template}`, job);
    if (!data.devices) return;
    if (!data.devices.some((one) => one.device_hash === job.device_hash)) return load();
    if (job.device_hash !== data.device || (data.template && job.template !== data.template) || !data.status) return;
    if (isActive(job)) take({ ...data.status, job });
    else refresh().then(history.load);
  }

  async function generate() {
    if (busy) return;
    busy = true;
    try {
      await api.generate(data.device, data.template);
      announce(t("requested"));
    } catch (error) {
      if (error.status === 401) { busy = false; return leave("expired"); }
      data.fault = error;
      announce(errorText(error));
      draw();
      busy = false;
      return;
    }
    busy = false;
    await refresh();
  }

  // A fresh link each time: it is good for minutes only, and the answer to a link names the file.
  async function download() {
    await guarded(async () => {
      const status = await api.status(data.device, data.template);
      take(status);
      if (!status.download_url) return;
      const link = h("a", { href: status.download_url, download: status.filename ?? "", hidden: true });
      document.body.append(link);
      link.click();
      link.remove();
      announce(t("downloading"));
      watchCount(status.download_count);
    });
  }

  // The count grows when the last byte is sent; no event tells of that.
  async function watchCount(before) {
    for (const wait of [700, 1500, 3000, 6000, 12000]) {
      await new Promise((resolve) => { setTimeout(resolve, wait); });
      if (stop.signal.aborted) return;
      await refresh();
      if (data.status?.download_count !== before) return history.load();
    }
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) licence.hide();
    else if (!stop.signal.aborted) refresh();
  }, { signal: stop.signal });

  draw();
  load();
  follow("/api/ate/events", {
    signal: stop.signal, onEvent,
    onMode: (mode) => { if (mode !== data.mode) { data.mode = mode; draw(); schedule(); } },
    onRefused: (error) => { if (error.status === 401) guarded(() => { throw error; }); },
  });

  return {
    redraw: () => { draw(true); opener.draw(); history.draw(); },
    close: () => { stop.abort(); clearTimeout(timer); app.replaceChildren(); },
  };
}

function layout(app) {
  const parts = {};
  const section = (name, className) => {
    parts[name] = h("section", { class: className, id: name });
    return parts[name];
  };
  parts.alert = h("div", { class: "alert" });
  parts.devices = h("div", { class: "device-bar" });
  app.replaceChildren(parts.alert, parts.devices,
    h("div", { class: "columns" }, section("ticket", "ticket"),
      h("div", { class: "side" }, section("licence", "card"), section("plan", "card")),
      section("opener", "card"), section("history", "card")));
  return parts;
}

run(open);
