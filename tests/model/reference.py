"""RETRO in NumPy, float64, written from the papers' equations and sharing no line with the package.

A GPT-2 decoder (learned positions, LayerNorm, GELU by tanh) whose layers carry chunk-wise cross-attention, a neighbour
encoder, and for each text a loop over its chunks: nothing is batched, shifted or cached, so what each position may read
is written as it is defined. Sources: RETRO, arXiv:2112.04426, section 2.4 and listing 1; rotary positions
arXiv:2104.09864; RMSNorm arXiv:1910.07467.

    weights   name -> array, the names of a checkpoint
    d         distance i - j + m - 1 of slot i in a row and neighbour token j
"""

import math

import numpy as np


def softmax(logits):
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def layer_norm(states, weight, bias, epsilon):
    mean, variance = states.mean(-1, keepdims=True), states.var(-1, keepdims=True)
    return (states - mean) / np.sqrt(variance + epsilon) * weight + bias


def rms_norm(states, weight, epsilon):
    return states / np.sqrt((states**2).mean(-1, keepdims=True) + epsilon) * weight


def erf(values):
    return np.vectorize(math.erf)(values)


def rotated(states, heads):
    """[r, E]: in each head, the pair (2i, 2i + 1) at position p turned by p * 10000^(-2i / h)."""
    out = np.empty_like(states)
    width = states.shape[1] // heads
    for position, state in enumerate(states):
        for head in range(heads):
            for i in range(0, width, 2):
                angle = position * 10_000.0 ** (-i / width)
                x, y = state[head * width + i], state[head * width + i + 1]
                out[position, head * width + i] = x * math.cos(angle) - y * math.sin(angle)
                out[position, head * width + i + 1] = x * math.sin(angle) + y * math.cos(angle)
    return out


def attend(query, key, value, heads, bias=None, causal=False):
    """Multi-head attention; bias [heads, queries, keys] or None."""
    out = np.zeros_like(query)
    width = query.shape[1] // heads
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = query[:, part] @ key[:, part].T / math.sqrt(width)
        if bias is not None:
            logits = logits + bias[head]
        if causal:
            logits = np.where(np.tri(len(query), dtype=bool), logits, -np.inf)
        out[:, part] = softmax(logits) @ value[:, part]
    return out


class Reference:
    """One text at a time.

    Args:
        weights: the checkpoint's, float64. options: the RetroOptions. heads, encoder_heads: of decoder and encoder.
    """

    def __init__(self, weights, options, *, heads, encoder_heads):
        self.w, self.o = weights, options
        self.heads, self.encoder_heads = heads, encoder_heads
        self.layers = 1 + max(int(name.split(".")[3]) for name in weights if name.startswith("decoder.transformer.h."))
        self.cca = sorted({int(name.split(".")[3]) for name in weights if ".retro_cca." in name})

    def norm(self, states, name):
        if self.o.norm == "layer":
            return layer_norm(states, self.w[f"{name}.weight"], self.w[f"{name}.bias"], self.o.norm_epsilon)
        return rms_norm(states, self.w[f"{name}.weight"], self.o.norm_epsilon)

    def logits(self, tokens, neighbours, there, gate=1.0):
        """[n, V]. tokens [n]; neighbours, there [C, k, 2m]."""
        w = self.w
        states = w["decoder.transformer.wte.weight"][tokens] + w["decoder.transformer.wpe.weight"][: len(tokens)]
        encoded = None
        for layer in range(self.layers):
            at = f"decoder.transformer.h.{layer}"
            normed = layer_norm(states, w[f"{at}.ln_1.weight"], w[f"{at}.ln_1.bias"], 1e-5)
            query, key, value = np.split(normed @ w[f"{at}.attn.c_attn.weight"] + w[f"{at}.attn.c_attn.bias"], 3, -1)
            mixed = attend(query, key, value, self.heads, causal=True)
            states = states + mixed @ w[f"{at}.attn.c_proj.weight"] + w[f"{at}.attn.c_proj.bias"]
            if layer in self.cca and gate:
                if encoded is None:  # once, at the first CCA layer, in the light of the states there
                    encoded = self.encode(states, neighbours, there)
                states = states + gate * self.cross_attention(states, encoded, f"{at}.retro_cca")
            normed = layer_norm(states, w[f"{at}.ln_2.weight"], w[f"{at}.ln_2.bias"], 1e-5)
            hidden = normed @ w[f"{at}.mlp.c_fc.weight"] + w[f"{at}.mlp.c_fc.bias"]
            hidden = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
            states = states + hidden @ w[f"{at}.mlp.c_proj.weight"] + w[f"{at}.mlp.c_proj.bias"]
        states = layer_norm(states, w["decoder.transformer.ln_f.weight"], w["decoder.transformer.ln_f.bias"], 1e-5)
        return states @ w["decoder.transformer.wte.weight"].T  # tied

    def chunk_places(self, n):
        """For each chunk with neighbours, the positions that it covers; right-aligned, the first one is short."""
        m = self.o.chunk_tokens
        if self.o.chunk_alignment == "left":
            return [list(range(u * m, (u + 1) * m)) for u in range(n // m)]
        first = n - (math.ceil(n / m) - 1) * m
        return [list(range(first)), *(list(range(s, s + m)) for s in range(first, n, m))]

    def encode(self, states, neighbours, there):
        """chunk -> list of the k neighbours' states, None for one that is not there; only its tokens are kept."""
        m, encoded = self.o.chunk_tokens, []
        read = {"both": slice(0, 2 * m), "neighbour": slice(0, m), "continuation": slice(m, 2 * m)}[self.o.continuation]
        for u, places in enumerate(self.chunk_places(len(states))):
            found = []
            for ids, mask in zip(neighbours[u][:, read], there[u][:, read], strict=True):
                if not mask.any():
                    found.append(None)
                    continue
                real = np.flatnonzero(mask) if self.o.missing_tokens == "masked" else np.arange(len(ids))
                found.append((real, self.encode_one(ids, real, states[places])))
            encoded.append(found)
        return encoded

    def encode_one(self, ids, real, chunk):
        """States of the real tokens of one neighbour. Masked tokens are as if they were not there, at their places."""
        w, o, heads = self.w, self.o, self.encoder_heads
        table = "encoder.embedding.weight" if o.encoder_embeddings == "own" else "decoder.transformer.wte.weight"
        states = w[table][ids]
        if "encoder.projection.weight" in w:
            states = states @ w["encoder.projection.weight"].T
        if o.encoder_outer_norms:
            states = self.norm(states, "encoder.input_norm")
        for layer in range(o.encoder_layers):
            at = f"encoder.layers.{layer}"
            fused = self.norm(states, f"{at}.attention_norm") @ w[f"{at}.query_key_value.weight"].T
            query, key, value = np.split(fused, 3, -1)
            if o.encoder_positions == "rotary":
                query, key = rotated(query, heads), rotated(key, heads)
            states = states + attend(query, key[real], value[real], heads) @ w[f"{at}.attention_output.weight"].T
            if layer == 0 and o.query_conditioning:
                query = self.norm(states, f"{at}.condition_norm") @ w[f"{at}.condition_query.weight"].T
                normed = self.norm(chunk, f"{at}.chunk_norm")
                if o.missing_tokens == "read":  # what a short chunk lacks is zeros, and read
                    normed = np.concatenate([normed, np.zeros((o.chunk_tokens - len(chunk), normed.shape[1]))])
                key, value = np.split(normed @ w[f"{at}.condition_key_value.weight"].T, 2, -1)
                states = states + attend(query, key, value, heads) @ w[f"{at}.condition_output.weight"].T
            hidden = self.norm(states, f"{at}.feed_forward_norm") @ w[f"{at}.feed_forward_up.weight"].T
            if o.encoder_feed_forward == "swiglu":
                gate, up = np.split(hidden, 2, -1)
                hidden = gate / (1 + np.exp(-gate)) * up
            else:
                hidden = 0.5 * hidden * (1 + erf(hidden / math.sqrt(2)))
            states = states + hidden @ w[f"{at}.feed_forward_down.weight"].T
        return (self.norm(states, "encoder.output_norm") if o.encoder_outer_norms else states)[real]

    def cross_attention(self, states, encoded, at):
        """Position t reads the neighbours of the last chunk that is complete with t, and of no other."""
        w, o, heads = self.w, self.o, self.o.cca_heads or self.heads
        added = np.zeros_like(states)
        ends = [places[-1] for places in self.chunk_places(len(states))]
        blocks = np.split(w[f"{at}.value_key.weight"], 2 + o.previous_token_keys)
        for t in range(len(states)):
            complete = [u for u, end in enumerate(ends) if end <= t]
            found = [neighbour for neighbour in encoded[complete[-1]] if neighbour is not None] if complete else []
            if not found:
                continue
            slot = t - ends[complete[-1]]
            keys, values, distances = [], [], []
            for real, tokens in found:
                value, key = tokens @ blocks[0].T, tokens @ blocks[1].T
                keys.append(key)
                values.append(value)
                first = o.chunk_tokens if o.continuation == "continuation" else 0
                distances += [slot - (first + j) + o.chunk_tokens - 1 for j in real]
            query = self.norm(states[t : t + 1], f"{at}.query_norm") @ w[f"{at}.query.weight"].T
            bias = self.position_bias(distances, at)
            read = attend(query, np.concatenate(keys), np.concatenate(values), heads, bias)[0]
            read = read @ w[f"{at}.output.weight"].T
            if o.learned_gate != "none":
                gate = w[f"{at}.gate"][0]
                read = read * (math.tanh(gate) if o.learned_gate == "tanh" else gate)
            added[t] = read
        return added

    def position_bias(self, distances, at):
        """[heads, 1, keys]: a linear map of the distance's cosines and sines, or an entry of a table."""
        if self.o.relative_positions == "none":
            return None
        learned = self.w[f"{at}.position_bias"]
        if self.o.relative_positions == "table":  # the least distance is -m: slot 0, the last token of 2m
            return learned[:, [d + self.o.chunk_tokens for d in distances]][:, None]
        half = (learned.shape[1] + 1) // 2
        angles = np.array(distances)[:, None] * 10_000.0 ** (-np.arange(half) / half)
        features = np.concatenate([np.cos(angles), np.sin(angles)], 1)[:, : learned.shape[1]]
        return (learned @ features.T)[:, None]
