// The HTTP API as this page uses it. Every failure is an ApiError with the code of the problem, never a raw response.
import { current } from "/dashboard/assets/session.js";

export class ApiError extends Error {
  constructor(status, body, retryAfter) {
    super(body?.message ?? `HTTP ${status}`);
    this.status = status;
    this.code = body?.code ?? (status === 0 ? "offline" : `http_${status}`);
    this.details = body?.details ?? null;
    this.hint = body?.hint ?? null;
    this.requestId = body?.requestId ?? null;
    this.retryAfter = retryAfter;
  }
}

const TIMEOUT = 30000;

async function problem(answer) {
  const body = await answer.json().catch(() => null);
  const error = new ApiError(answer.status, body, Number(answer.headers.get("Retry-After")) || null);
  error.requestId = answer.headers.get("X-Request-Id");
  return error;
}

export async function request(path, { method = "GET", body, signal, headers = {}, timeout = TIMEOUT } = {}) {
  const limits = [signal, timeout && AbortSignal.timeout(timeout)].filter(Boolean);
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: {
        Accept: "application/json",
        ...(current() && { Authorization: `Bearer ${current()}` }),
        ...(body && { "Content-Type": "application/json" }),
        ...headers,
      },
      body: body && JSON.stringify(body),
      signal: limits.length ? AbortSignal.any(limits) : undefined,
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, { code: error.name === "TimeoutError" ? "timeout" : "offline", message: error.message });
  }
  if (!answer.ok) throw await problem(answer);
  return answer;
}

export const get = async (path, options) => (await request(path, options)).json();
export const post = async (path, body = {}, options = {}) =>
  (await request(path, { ...options, method: "POST", body })).json();

const query = (values) => {
  const text = new URLSearchParams(Object.entries(values).filter(([, v]) => v !== undefined && v !== null)).toString();
  return text ? `?${text}` : "";
};

// All pages of a list, or its first `most` items.
export async function list(path, { most = 200, limit = 100, ...filter } = {}) {
  const items = [];
  let after;
  do {
    const page = await get(path + query({ ...filter, limit: Math.min(limit, most), after }));
    items.push(...page.items);
    after = page.next;
  } while (after && items.length < most);
  return items.slice(0, most);
}

export const status = (device, template) => get(`/api/ate/status${query({ device_hash: device, template })}`);
export const license = (device) => get(`/api/ate/license${query({ device_hash: device })}`);
export const generate = (device, template) =>
  post("/api/ate/generate", { device_hash: device, ...(template && { template }) });
export const ops = (path, values = {}) => get(`/api/ops/${path}${query(values)}`);
