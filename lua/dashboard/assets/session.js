// Who is here: the token, from the URL fragment, this tab's storage or the sign-in form; and when it ends.
//
// A token is never put into a URL, a cookie or storage that outlives the tab. The server judges it; what is read out of
// it here only decides what the page shows.

const page = document.documentElement.dataset.page;
const TOKEN = `atelier.${page}.token`;
const REFRESH = `atelier.${page}.refresh`;

const store = {
  get(name) { try { return sessionStorage.getItem(name); } catch { return null; } },
  set(name, value) {
    try {
      if (value) sessionStorage.setItem(name, value);
      else sessionStorage.removeItem(name);
    } catch { /* without storage the token lives as long as the page */ }
  },
};

let token = store.get(TOKEN);
let refresh = store.get(REFRESH);

// Takes the token out of the address, at once; whether there was one.
export function takeFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  const found = given.get("token") ?? given.get("access_token");
  if (!found) return false;
  history.replaceState(null, "", location.pathname + location.search);
  keep(found, given.get("refresh_token"));
  return true;
}

export function keep(newToken, newRefresh = null) {
  token = newToken;
  refresh = newRefresh;
  store.set(TOKEN, token);
  store.set(REFRESH, refresh);
}

export function forget() {
  keep(null, null);
}

export const current = () => token;

export function claims() {
  try {
    const part = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(part), (c) => c.charCodeAt(0));
    const value = JSON.parse(new TextDecoder().decode(bytes));
    return value && typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

// Seconds until the token ends, by this machine's clock; infinite when it does not say.
export function secondsLeft() {
  const end = claims()?.exp;
  return typeof end === "number" ? end - Date.now() / 1000 : Infinity;
}

export const canRefresh = () => Boolean(refresh);

async function ask(supabase, grant, body) {
  const answer = await fetch(`${supabase.url}/auth/v1/token?grant_type=${grant}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", apikey: supabase.anon_key },
    body: JSON.stringify(body),
    credentials: "omit",
    referrerPolicy: "no-referrer",
  });
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok || !value.access_token) {
    throw Object.assign(new Error(value.msg ?? value.error_description ?? answer.statusText), {
      code: answer.status === 429 ? "rate_limited" : answer.status < 500 ? "bad_credentials" : "sign_in_failed",
    });
  }
  keep(value.access_token, value.refresh_token ?? null);
}

export const signIn = (supabase, email, password) => ask(supabase, "password", { email, password });

let refreshing = null; // one at a time: a refresh token works once

// Gets the next token where the project gives one; false when it does not.
export function renew(supabase) {
  if (!supabase || !refresh) return Promise.resolve(false);
  refreshing ??= ask(supabase, "refresh_token", { refresh_token: refresh })
    .then(() => true, () => false)
    .finally(() => { refreshing = null; });
  return refreshing;
}
