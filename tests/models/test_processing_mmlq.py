"""Photos and comments to tensors: joining, cutting off, padding, and what is refused."""

import io
import logging

import numpy as np
import pytest
import torch
from mmlq_fixtures import COMMENTS, photos, tiny_processor, tiny_text_config, tiny_tokenizer
from transformers import AutoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from charm_hf import MmlqProcessor
from charm_hf.models.image_loading_charm import load_image
from charm_hf.models.processing_mmlq import batch_comments, check_tokenizer


def words(processor, inputs, row):
    kept = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
    return processor.tokenizer.convert_ids_to_tokens(kept.tolist())


def test_all_comments_of_a_photo_become_one_text():
    processor = tiny_processor()
    inputs = processor(photos(), COMMENTS)
    assert words(processor, inputs, 0) == ["[CLS]", "great", "light", "lovely", "tone", "[SEP]"]
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (4, 13)
    assert inputs["attention_mask"].sum(1).tolist() == [6, 0, 13, 0]
    assert inputs["pixel_values"].shape == (4, 3, 32, 32)


def test_a_separator_of_ones_own_stands_between_the_comments():
    processor = tiny_processor(comment_separator=" [SEP] ")
    inputs = processor(photos(1), [["great light", "lovely tone"]])
    assert words(processor, inputs, 0) == ["[CLS]", "great", "light", "[SEP]", "lovely", "tone", "[SEP]"]


def test_comments_are_text_as_transformers_calls_it_too():
    processor, expected = tiny_processor(), tiny_processor()(photos(), COMMENTS)["input_ids"]
    assert torch.equal(processor(photos(), text=COMMENTS)["input_ids"], expected)
    assert torch.equal(processor(photos(), comments=COMMENTS)["input_ids"], expected)


def test_without_comments_only_the_photo_is_prepared():
    assert set(tiny_processor()(photos())) == {"pixel_values"}


def test_long_comments_are_cut_off_and_the_number_of_lost_tokens_is_reported(caplog):
    processor = tiny_processor(max_text_length=7)
    with caplog.at_level(logging.WARNING):
        logging.getLogger("transformers").propagate = True
        logging.getLogger("charm_hf").propagate = True
        inputs = processor(photos(), COMMENTS, return_num_truncated_tokens=True)
    assert inputs["num_truncated_tokens"].tolist() == [0, 0, 6, 0]
    assert "1 of 4 photos are longer than 7 tokens: 6 tokens were cut off" in caplog.text
    assert words(processor, inputs, 2) == ["[CLS]", "the", "sky", "is", "over", "exposed", "[SEP]"]
    unlimited = processor(photos(), COMMENTS, max_text_length=20, return_num_truncated_tokens=True)
    assert unlimited["num_truncated_tokens"].tolist() == [0, 0, 0, 0]
    assert "num_truncated_tokens" not in processor(photos(), COMMENTS)


@pytest.mark.parametrize("nothing", [[], None, "", ["", " \n"], [""]])
def test_an_empty_list_a_blank_string_and_none_all_mean_no_comments(nothing):
    inputs = tiny_processor()(photos(2), [nothing, ["great light"]])
    assert inputs["attention_mask"].sum(1).tolist() == [0, 4]


def test_blank_comments_do_not_change_what_the_others_say():
    processor = tiny_processor()
    expected = processor(photos(1), [["great light"]])["input_ids"]
    assert torch.equal(processor(photos(1), [["", "great light", " "]])["input_ids"], expected)


def test_one_photo_takes_its_comments_as_a_plain_list_or_string():
    processor, image = tiny_processor(), photos(1)[0]
    expected = processor([image], [["great light"]])
    for comments in (["great light"], "great light", [["great light"]]):
        inputs = processor(image, comments)
        assert torch.equal(inputs["input_ids"], expected["input_ids"])
        assert torch.equal(inputs["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize(
    ("comments", "message"),
    [
        ([["a"]], "comments for 1 photos and 2 photos"),
        (["a", "b", "c"], "comments for 3 photos and 2 photos"),
        ([["a"], [3]], "Comment 0 of photo 1 must be a string, got int: 3"),
        ([["a", None], []], "Comment 1 of photo 0 must be a string, got NoneType"),
        ([float("nan"), []], "photo 0 must be a list of strings, got nan"),
        ("great light", "one list of strings a photo"),
        ({"a": ["b"]}, "one list of strings a photo"),
    ],
)
def test_comments_that_cannot_be_matched_to_photos_are_refused(comments, message):
    with pytest.raises(ValueError, match=message):
        tiny_processor()(photos(2), comments)


def test_comments_are_matched_without_a_processor_too():
    assert batch_comments(["nice", None, ["a", "b"]], 3, False) == [["nice"], [], ["a", "b"]]
    assert batch_comments(("a", "b"), 1, True) == [["a", "b"]]


def test_photos_are_read_by_the_packages_own_rule(tmp_path):
    processor, image = tiny_processor(), photos(1)[0]
    image.save(tmp_path / "photo.png")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    expected = processor(image)["pixel_values"]
    for source in (tmp_path / "photo.png", str(tmp_path / "photo.png"), buffer.getvalue(), np.asarray(image)):
        assert torch.equal(processor(source)["pixel_values"], expected)
    rotated = photos(1)[0]
    exif = rotated.getexif()
    exif[0x0112] = 6
    rotated.save(tmp_path / "rotated.jpg", exif=exif, quality=100)
    upright = load_image(tmp_path / "rotated.jpg")
    assert torch.equal(processor(tmp_path / "rotated.jpg")["pixel_values"], processor(upright)["pixel_values"])
    with pytest.raises(FileNotFoundError):
        processor(tmp_path / "absent.jpg")


def test_arguments_are_the_image_processors_or_else_the_texts_or_stand_in_a_dictionary_of_their_own():
    square, charm, images = tiny_processor(), tiny_processor("charm"), photos()
    flat = square(images, COMMENTS, padding="max_length", max_length=20, do_rescale=False)
    nested = square(
        images, COMMENTS, text_kwargs={"padding": "max_length", "max_length": 20}, images_kwargs={"do_rescale": False}
    )
    assert flat["input_ids"].shape == (4, 20)
    assert flat["pixel_values"].max() > 100
    assert all(torch.equal(flat[name], nested[name]) for name in flat)
    padded = charm(images, COMMENTS, padding="max_length", pad_to_multiple_of=16)
    assert padded["pixel_values"].shape[1] == 40
    assert padded["input_ids"].shape[1] == 16
    for unclear in ({"text_kwargs": {"padding": True}}, {"images_kwargs": {"do_rescale": True}}):
        with pytest.raises(ValueError, match="given twice"):
            square(images, COMMENTS, padding="longest", do_rescale=False, **unclear)
    for processor, error in ((square, TypeError), (charm, ValueError)):
        with pytest.raises(error, match="paddding"):
            processor(images, COMMENTS, paddding=True)


@pytest.mark.parametrize("vision", ["clip", "charm"])
def test_a_saved_processor_prepares_the_same(tmp_path, vision):
    processor = tiny_processor(vision, max_text_length=9, comment_separator=" but ")
    processor.save_pretrained(tmp_path)
    loaded = MmlqProcessor.from_pretrained(tmp_path)
    expected, inputs = processor(photos(), COMMENTS), loaded(photos(), COMMENTS)
    assert set(inputs) == set(expected)
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    assert (loaded.max_text_length, loaded.comment_separator) == (9, " but ")
    assert type(AutoProcessor.from_pretrained(tmp_path)) is MmlqProcessor


def test_pillow_resizes_whatever_is_installed(tmp_path):
    class CLIPImageProcessor(CLIPImageProcessorPil):
        """Stands for the one that transformers takes where torchvision is installed."""

    given = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    assert given.to_dict()["image_processor_type"] == "CLIPImageProcessor"
    processor, expected = MmlqProcessor(given, tiny_tokenizer()), tiny_processor()
    assert type(processor.image_processor) is CLIPImageProcessorPil
    assert processor.image_processor.to_dict() == expected.image_processor.to_dict()
    assert torch.equal(processor(photos())["pixel_values"], expected(photos())["pixel_values"])


def test_a_photo_is_squeezed_into_the_encoders_square_unless_asked_otherwise(tmp_path):
    CLIPImageProcessorPil().save_pretrained(tmp_path / "vision")
    tiny_tokenizer().save_pretrained(tmp_path / "text")
    image = photos(1, sizes=((300, 600),))[0]
    squeezed = MmlqProcessor.from_encoders(tmp_path / "vision", tmp_path / "text")
    cropped = MmlqProcessor.from_encoders(tmp_path / "vision", tmp_path / "text", square=False, max_text_length=64)
    square = image.resize((224, 224), 3)
    assert torch.equal(squeezed(image)["pixel_values"], squeezed(square)["pixel_values"])
    assert not torch.allclose(cropped(image)["pixel_values"], squeezed(image)["pixel_values"])
    assert cropped.max_text_length == 64


def test_a_tokenizer_of_another_encoder_is_refused():
    tokenizer = tiny_tokenizer()
    check_tokenizer(tokenizer, tiny_text_config())
    with pytest.raises(ValueError, match="has 22 tokens and the text encoder \\(bert\\) embeds 20"):
        check_tokenizer(tokenizer, tiny_text_config(vocab_size=20))
    with pytest.raises(ValueError, match="pads with token 0 and the text encoder \\(roberta\\) with 1"):
        check_tokenizer(tokenizer, tiny_text_config("roberta"))
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        check_tokenizer(tokenizer, tiny_text_config())


def test_a_length_without_room_for_a_word_is_refused():
    with pytest.raises(ValueError, match="max_text_length"):
        tiny_processor(max_text_length=2)


def test_visual_tokens_are_counted_without_pixels():
    charm, square = tiny_processor("charm"), tiny_processor("clip")
    image = photos(1)[0]
    assert charm.is_charm
    assert charm.num_tokens(image.height, image.width) == charm(image)["pixel_values"].shape[1]
    assert not square.is_charm
    height, width = square(image)["pixel_values"].shape[-2:]
    assert square.num_tokens(9999, 10) == (height // 14) * (width // 14)
    with pytest.raises(ValueError, match="max_num_patches: only Charm tokens"):
        square.num_tokens(100, 100, max_num_patches=5)
