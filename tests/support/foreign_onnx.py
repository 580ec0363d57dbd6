"""A small ONNX encoder as somebody else might make it."""

import numpy as np

SIZE = 8  # pixels a side


def colour_sensitive(path, order, shift=0.0):
    """An encoder that keeps the red third of the pixels, as somebody trained it on images in this order of colours."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.zeros((3 * SIZE * SIZE, SIZE * SIZE), np.float32)
    red = 0 if order == "RGB" else 2
    weights[red * SIZE * SIZE : (red + 1) * SIZE * SIZE] = np.eye(SIZE * SIZE)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["z"]),
            helper.make_node("Add", ["z", "b"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", SIZE * SIZE])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([shift], np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())
    return path
