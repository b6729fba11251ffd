"""The table that `model.summary()` prints."""

HEAD = ("Layer (type)", "Output shape", "Weights", "Mask")


def summary_lines(model, layers_and_shapes, line_length=None):
    """Lines of the table; layers_and_shapes: (layer, output shape) of each line."""
    rows = [
        (f"{layer.name} ({type(layer).__name__})", str(shape), f"{layer.count_params():,}", layer.mask_role())
        for layer, shape in layers_and_shapes
    ]
    widths = [max(len(row[i]) for row in [HEAD, *rows]) + 2 for i in range(4)]
    if line_length is not None:
        widths[0] = max(12, line_length - sum(widths[1:]))
    rule = "-" * sum(widths)
    total = model.count_params()
    trainable = sum(v.size for v in model.trainable_weights)
    return [
        f'Model: "{model.name}"',
        rule,
        _line(HEAD, widths),
        rule,
        *(_line(row, widths) for row in rows),
        rule,
        f"{total:,} weights, {trainable:,} of them trainable",
    ]


def _line(cells, widths):
    name, shape, weights, mask = cells
    w = widths
    return f"{name[: w[0] - 1]:<{w[0]}}{shape:<{w[1]}}{weights:>{w[2] - 2}}  {mask}".rstrip()
