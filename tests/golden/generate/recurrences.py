"""The two recurrences (spec 2.6 and 2.8) as plain loops over time, with the written-out backward beside autograd.

Layout: tokens [B, T, H, K or V], state [B, H, K, V] with key rows and value columns. float64.
"""

import torch


def delta_rule(r, logw, k, v, a, b, state):
    """S_t = diag(w_t) S + b_t (x) (S^T a_t) + k_t (x) v_t with S the state before t; o_t = S_t^T r_t."""
    outputs = []
    for t in range(r.shape[1]):
        removed = torch.einsum("bhkv,bhk->bhv", state, a[:, t])
        state = (
            logw[:, t].exp().unsqueeze(-1) * state
            + b[:, t].unsqueeze(-1) * removed.unsqueeze(-2)
            + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        )
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, r[:, t]))
    return torch.stack(outputs, dim=1), state


def decayed_sum(q, logw, k, v, state):
    """S_t = diag(w_t) S + k_t (x) v_t ; o_t = S_t^T q_t. logw is [B, T, H, K], or [B, T, H] for one decay a head."""
    if logw.dim() == 3:
        logw = logw.unsqueeze(-1)
    outputs = []
    for t in range(q.shape[1]):
        state = logw[:, t].exp().unsqueeze(-1) * state + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(outputs, dim=1), state


def delta_rule_backward(r, logw, k, v, a, b, state0, d_out, d_state):
    """The backward of spec 2.6, by hand: gradients of r, logw, k, v, a, b, state0."""
    with torch.no_grad():
        states = [state0]
        for t in range(r.shape[1]):
            one = slice(t, t + 1)
            states.append(
                delta_rule(r[:, one], logw[:, one], k[:, one], v[:, one], a[:, one], b[:, one], states[-1])[1]
            )
        grads = {name: torch.zeros_like(x) for name, x in dict(r=r, logw=logw, k=k, v=v, a=a, b=b).items()}
        carried = d_state.clone()
        for t in reversed(range(r.shape[1])):
            before, after, w = states[t], states[t + 1], logw[:, t].exp()
            removed = torch.einsum("bhkv,bhk->bhv", before, a[:, t])
            grads["r"][:, t] = torch.einsum("bhkv,bhv->bhk", after, d_out[:, t])
            carried = carried + r[:, t].unsqueeze(-1) * d_out[:, t].unsqueeze(-2)
            grads["logw"][:, t] = w * (carried * before).sum(-1)
            grads["k"][:, t] = torch.einsum("bhkv,bhv->bhk", carried, v[:, t])
            grads["v"][:, t] = torch.einsum("bhkv,bhk->bhv", carried, k[:, t])
            grads["b"][:, t] = torch.einsum("bhkv,bhv->bhk", carried, removed)
            d_removed = torch.einsum("bhkv,bhk->bhv", carried, b[:, t])
            grads["a"][:, t] = torch.einsum("bhkv,bhv->bhk", before, d_removed)
            carried = w.unsqueeze(-1) * carried + a[:, t].unsqueeze(-1) * d_removed.unsqueeze(-2)
        grads["state0"] = carried
    return grads
