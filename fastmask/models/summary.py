"""The table that `model.summary()` prints."""

from fastmask.layers.symbolic import SymbolicMask

HEAD = ("Layer (type)", "Output shape", "Weights", "Mask", "Connected to")


def summary_lines(model, line_length=None):
    """Lines of the table, one for each layer. Of a model that is no chain it says what each layer is connected to."""
    graph = getattr(model, "_graph", None)
    rows = [_row(layer, [n for n in graph.nodes if n.layer is layer]) for layer in graph.layers] if graph else []
    rows = rows or [_row(layer, []) for layer in model.layers]
    if graph and not graph.is_chain:
        rows = [_row_of_input(x) for x in graph.inputs] + rows
    else:
        rows = [row[:-1] for row in rows]
    head = HEAD[: len(rows[0])] if rows else HEAD[:-1]
    widths = [max(len(row[i]) for row in [head, *rows]) + 2 for i in range(len(head))]
    if line_length is not None:
        widths[0] = max(12, line_length - sum(widths[1:]))
    rule = "-" * sum(widths)
    total = model.count_params()
    trainable = sum(v.size for v in model.trainable_weights)
    return [
        f'Model: "{model.name}"',
        rule,
        _line(head, widths),
        rule,
        *(_line(row, widths) for row in rows),
        rule,
        f"{total:,} weights, {trainable:,} of them trainable",
    ]


def _row(layer, nodes):
    """Of a layer and its calls: where it is called several times, the shapes of the first."""
    shapes = [t.shape for t in nodes[0].outputs if t is not None] if nodes else []
    return (
        f"{layer.name} ({type(layer).__name__})",
        ", ".join(str(shape) for shape in shapes) or "?",
        f"{layer.count_params():,}",
        _mask_word(layer, nodes),
        "; ".join(", ".join(_source(t) for t in node.sources) for node in nodes),
    )


def _mask_word(layer, nodes):
    """What the layer does with masks; "drops" if it does so in one of its calls."""
    role = layer.mask_role()
    return "drops" if role in ("passes", "changes") and any(node.loses_mask for node in nodes) else role


def _row_of_input(tensor):
    return f"{tensor.name} (Input)", str(tensor.shape), "0", "", ""


def _source(tensor):
    if isinstance(tensor, SymbolicMask):
        return f"mask of {_source(tensor.tensor)}"
    return tensor.name


def _line(cells, widths):
    name, shape, weights, *rest = cells
    w = widths
    line = f"{name[: w[0] - 1]:<{w[0]}}{shape:<{w[1]}}{weights:>{w[2] - 2}}  "
    return (line + "".join(f"{cell:<{width}}" for cell, width in zip(rest, w[3:], strict=True))).rstrip()
