"""Transformers' own tests, on our classes. `test_conformity.py` runs them and knows which may fail.

pytest tests/conformity/testers.py -k "CharmModels and save_load"
"""

from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path

import torch
from mmlq_fixtures import COMMENTS, photos, tiny_image_processor, tiny_text_config, tiny_tokenizer, tiny_vision_config
from mmlq_fixtures import TINY as TINY_QUERIES
from mmlq_fixtures import tiny_processor as tiny_mmlq_processor
from support import tiny_backbone_config
from transformers_tests import fetch_mixins, import_mixins

from charm_hf import (
    CharmConfig,
    CharmForAestheticScoring,
    CharmImageProcessor,
    CharmModel,
    MmlqConfig,
    MmlqForAestheticScoring,
    MmlqProcessor,
)
from charm_hf.models.modeling_mmlq import MmlqModel


_folder = fetch_mixins(Path(os.environ.get("TRANSFORMERS_TESTS", tempfile.gettempdir())))
modeling, configuration, image_processing, processing = (
    import_mixins(_folder, f"test_{name}_common")
    for name in ("modeling", "configuration", "image_processing", "processing")
)


# What the mixins look up by a class's name: which classes have no loss, and which take one label an image.
modeling.MODEL_MAPPING_NAMES |= {"charm": "CharmModel", "mmlq": "MmlqModel"}
modeling.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES |= {
    "charm": "CharmForAestheticScoring",
    "mmlq": "MmlqForAestheticScoring",
}


class CharmTester:
    """A tiny model over two photos, a large and a small one."""

    batch_size, is_training = 2, True
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 2

    def __init__(self, parent: unittest.TestCase | None, model_type: str) -> None:
        self.parent, self.model_type = parent, model_type
        self.processor = CharmImageProcessor(patch_size=8, max_num_patches=20, overflow="resize")
        # CLS, and where there are any, registers.
        self.encoder_seq_length = self.seq_length = (
            1 + 4 * ("registers" in model_type) + self.inputs()["scale_ids"].shape[1]
        )

    def get_config(self) -> CharmConfig:
        backbone = tiny_backbone_config(self.model_type, patch_size=8, image_size=24)
        return CharmConfig.for_dataset("ava", backbone_config=backbone)

    def inputs(self) -> dict[str, torch.Tensor]:
        return dict(self.processor(photos(2, sizes=((40, 30), (20, 40)))))

    def prepare_config_and_inputs_for_common(self) -> tuple[CharmConfig, dict[str, torch.Tensor]]:
        return self.get_config(), self.inputs()


class _CharmModels(modeling.ModelTesterMixin):
    all_model_classes = (CharmModel, CharmForAestheticScoring)
    test_resize_embeddings = False  # patches have no vocabulary
    model_type: str

    def setUp(self) -> None:
        self.model_tester = CharmTester(self, self.model_type)


class TestCharmModelsVit(_CharmModels, unittest.TestCase):
    model_type = "vit"


# What holds here holds for DINOv2 without registers, which has one token less.
class TestCharmModelsRegisters(_CharmModels, unittest.TestCase):
    model_type = "dinov2_with_registers"


class MmlqTester:
    """Tiny queries over CLIP and BERT."""

    batch_size, is_training, seq_length = 2, True, 4
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 2

    def __init__(self, parent: unittest.TestCase | None) -> None:
        self.parent = parent

    def get_config(self) -> MmlqConfig:
        return MmlqConfig(
            vision_config=tiny_vision_config(),
            text_config=tiny_text_config(),
            freeze_vision_model=False,
            freeze_text_model=False,
            comment_dropout=0.0,
            **TINY_QUERIES,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[MmlqConfig, dict[str, torch.Tensor]]:
        return self.get_config(), dict(tiny_mmlq_processor()(photos(2), COMMENTS[:1] * 2))


class TestMmlqModels(modeling.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (MmlqModel, MmlqForAestheticScoring)
    _is_composite = True

    def setUp(self) -> None:
        self.model_tester = MmlqTester(self)


class _Configs:
    """The checks of `ConfigTester`, each a test of its own."""

    def setUp(self) -> None:
        common = ["hidden_size", "num_attention_heads", "num_hidden_layers"]
        options = {"has_text_modality": False, "common_properties": common, **self.fields}
        self.config_tester = configuration.ConfigTester(self, self.config_class, **options)


for _check in dir(configuration.ConfigTester):
    if _check.startswith(("create_and_test_", "check_")):
        _name = "test_" + _check.removeprefix("create_and_test_").removeprefix("check_")
        setattr(_Configs, _name, lambda self, _check=_check: getattr(self.config_tester, _check)())


class TestCharmConfig(_Configs, unittest.TestCase):
    config_class, fields, model_tester = CharmConfig, {"num_scales": 3}, CharmTester(None, "vit")


class TestMmlqConfig(_Configs, unittest.TestCase):
    config_class, fields, model_tester = MmlqConfig, {"comment_dropout": 0.3}, MmlqTester(None)


class CharmImageProcessingTester(image_processing.ImageProcessingTester):
    """Photos of at most 80 pixels."""

    def __init__(self, parent: unittest.TestCase) -> None:
        super().__init__(parent, min_resolution=30, max_resolution=80, patch_size=8, max_num_patches=40)

    def _get_image_processing_classes(self) -> dict[str, type]:
        return {"pil": CharmImageProcessor}

    def expected_output_image_shape(self, images: list) -> tuple[int, int]:
        return CharmImageProcessor(patch_size=8, max_num_patches=40)(images)["pixel_values"].shape[1:]


class TestCharmImageProcessing(image_processing.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = CharmImageProcessingTester


class TestMmlqProcessor(processing.ProcessorTesterMixin, unittest.TestCase):
    processor_class = MmlqProcessor

    @classmethod
    def _setup_image_processor(cls) -> object:
        return tiny_image_processor()

    @classmethod
    def _setup_tokenizer(cls) -> object:
        return tiny_tokenizer()
