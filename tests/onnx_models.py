"""Small ONNX models for tests, and the layouts in which makers publish them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 8
SIZE = {"height": SIDE, "width": SIDE}
PREPROCESSOR: dict[str, Any] = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.25, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": SIZE,
}


def classifier(
    labels: int = 2,
    *,
    last: str = "",
    shape: tuple[Any, ...] = ("N", 3, SIDE, SIDE),
    metadata: dict[str, str] | None = None,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Scores that rise from label to label with the mean of the input; `last` is an operator that ends the graph."""
    slope = np.linspace(-1, 1, labels, dtype=np.float32)[None]
    nodes = [
        helper.make_node("Cast", ["pixel_values"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "slope"], ["scores"]),
        helper.make_node(last or "Identity", ["scores"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixel_values", dtype, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(slope, "slope")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, metadata)
    return model


def rt_detr(labels: int = 2, queries: int = 5) -> onnx.ModelProto:
    """Queries whose logits and boxes are the mean of the input."""
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values"], ["mean"], keepdims=0),
        helper.make_node("Expand", ["mean", "logits_shape"], ["logits"]),
        helper.make_node("Expand", ["mean", "boxes_shape"], ["pred_boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "pred_boxes")],
        [
            numpy_helper.from_array(np.array([1, queries, labels], np.int64), "logits_shape"),
            numpy_helper.from_array(np.array([1, queries, 4], np.int64), "boxes_shape"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def hugging_face(folder: Path, model: onnx.ModelProto | None = None, **changes: Any) -> Path:
    """A Hugging Face directory; `changes` go to `config.json`, those in capitals to `preprocessor_config.json`."""
    config = {
        "architectures": ["ViTForImageClassification"],
        "id2label": {"0": "normal", "1": "nsfw"},
        **{key: value for key, value in changes.items() if key.islower()},
    }
    preprocessor = {**PREPROCESSOR, **{key.lower(): value for key, value in changes.items() if key.isupper()}}
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1))
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\nlicense: agpl-3.0\n")
    (folder / "onnx/model.onnx").write_bytes((model or classifier()).SerializeToString())
    return folder


TRITON = """\
name: "tulips"
platform: "onnxruntime_onnx"  # ONNX
max_batch_size: 8
input [ { name: "pixel_values" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 8, 8 ] } ]
output [
  { name: "logits", data_type: TYPE_FP32, dims: [ 2 ], label_filename: "labels.txt" }
]
dynamic_batching { max_queue_delay_microseconds: 100 }
parameters: { key: "license" value: { string_value: "MIT" } }
parameters: { key: "reverse_input_channels" value: { string_value: "True" } }
parameters: { key: "mean_values" value: { string_value: "127.5 127.5 127.5" } }
parameters { key: "scale_values" value { string_value: "127.5" } }
"""


def triton(folder: Path, config: str = TRITON, labels: str = "tulip\nrose\n") -> Path:
    """A model's folder of a Triton repository, with versions 1 and 12."""
    for version in ("1", "12"):
        (folder / version).mkdir(parents=True, exist_ok=True)
        (folder / version / "model.onnx").write_bytes(classifier().SerializeToString())
    (folder / "config.pbtxt").write_text(config)
    (folder / "labels.txt").write_text(labels)
    return folder
