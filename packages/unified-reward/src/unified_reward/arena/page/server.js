// Requests to the arena, with the token that the address brought.

export class ServerError extends Error {
  /** Status 0: no answer. */
  constructor(status, type, message) {
    super(message);
    this.status = status;
    this.type = type;
    this.isPassing = status === 0 || status >= 500 || status === 429;
  }
}

/** Token of the tab under a name; one in the address is kept, and taken out of the address. */
export function token(name) {
  const given = decodeURIComponent(location.hash.slice(1)).trim();
  if (given) {
    sessionStorage.setItem(name, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(name) ?? "";
}

/** Answer of a route as JSON. */
export async function request(path, secret, body) {
  const headers = { Authorization: `Bearer ${secret}` };
  const options = { headers, cache: "no-store", signal: AbortSignal.timeout(20_000) };
  if (body) {
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    headers["Content-Type"] = "application/json";
  }
  let response;
  let answer;
  try {
    response = await fetch(`api/${path}`, options);
    answer = await response.json();
  } catch {
    if (!response || response.ok) throw new ServerError(0, "connection", "The server does not answer.");
    answer = {};
  }
  if (response.ok) return answer;
  const { type = "", message = `The server answers ${response.status}.` } = answer.error ?? {};
  throw new ServerError(response.status, type, message);
}

/** Wait that ends early when the network comes back. */
export function pause(milliseconds) {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
    addEventListener("online", resolve, { once: true });
  });
}
