"""Teachers through transformers against transformers' own classes: small random-weight models, saved and loaded."""

import json

import pytest
import torch

from spear.errors import ConfigError, DataError
from spear.teachers import Teacher, load_teacher
from spear.teachers.align import expected_frames

transformers = pytest.importorskip("transformers")

BLOCKS = 3
SIZES = {"hidden_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 4, "intermediate_size": 48}
SIZES |= {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
D2V = {key: value for key, value in SIZES.items() if key != "num_conv_pos_embeddings"}
MODELS = {  # teacher, class, config class, settings, whether utterances are normalised
    "wavlm-base": ("wavlm", "WavLMModel", "WavLMConfig", SIZES, False),
    "wavlm-large": ("wavlm", "WavLMModel", "WavLMConfig", SIZES | LARGE, True),
    "hubert-base": ("hubert", "HubertModel", "HubertConfig", SIZES, True),
    "hubert-large": ("hubert", "HubertModel", "HubertConfig", SIZES | LARGE, True),
    "wav2vec2-base": ("wav2vec2", "Wav2Vec2Model", "Wav2Vec2Config", SIZES, True),
    "wav2vec2-xlsr": ("wav2vec2", "Wav2Vec2Model", "Wav2Vec2Config", SIZES | LARGE, True),
    "data2vec": ("data2vec", "Data2VecAudioModel", "Data2VecAudioConfig", D2V, True),
}


def waves(*lengths):
    """Coloured noise of different loudness, zero-padded."""
    generator = torch.Generator().manual_seed(0)
    waves_BS = torch.zeros(len(lengths), max(lengths))
    for number, length in enumerate(lengths):
        waves_BS[number, :length] = torch.randn(length, generator=generator).cumsum(0).sin() * 0.3 / (number + 1) + 0.01
    return waves_BS, torch.tensor(lengths)


def save(name, folder):
    """Saves a small model with weights that let padding show if it leaked; returns its spec and the model."""
    teacher, model_class, config_class, settings, normalise = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**settings)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1 and "bias" in key:
                parameter.normal_(std=0.2)
            if "gru_rel_pos" in key or "rel_attn" in key or "attention" in key:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(folder)
    return f"{teacher}:{folder}", model


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory):
    spec, model = save(request.param, tmp_path_factory.mktemp(request.param))
    return spec, model, MODELS[request.param][4]


def close(x, y):
    """Equal within 1e-4 of the scale of what is compared."""
    torch.testing.assert_close(x, y, rtol=0, atol=1e-4 * max(1.0, float(y.abs().max())))


@pytest.mark.parametrize("layer", [-1, 0, 1, BLOCKS - 1, BLOCKS])
def test_a_layer_is_that_of_transformers(saved, layer):
    spec, model, normalise = saved
    teacher = load_teacher(f"{spec}@{layer}")
    assert isinstance(teacher, Teacher) and teacher.dim == 32 and teacher.frame_rate == 50
    waves_BS, lengths_B = waves(16000)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise)
    inputs = extractor(waves_BS[0].numpy(), sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        out = model(inputs, output_hidden_states=True)
    x_BTD, lens_B = teacher.embed(waves_BS, lengths_B)
    assert lens_B.tolist() == [out.last_hidden_state.shape[1]] == [49]
    if layer == -1:
        close(x_BTD, out.last_hidden_state)
    elif layer < BLOCKS:
        close(x_BTD, out.hidden_states[layer])
    elif model.config.to_dict().get("do_stable_layer_norm"):
        close(model.encoder.layer_norm(x_BTD), out.last_hidden_state)  # no final norm in ours
    else:
        close(x_BTD, out.last_hidden_state)


def feed_forward(module, run):
    """What a module gave in a run."""
    found = []
    handle = module.register_forward_hook(lambda _, inputs, output: found.append(output))
    with torch.no_grad():
        run()
    handle.remove()
    return found[0]


def test_the_feed_forward_part_is_that_of_transformers(saved):
    spec, model, normalise = saved
    waves_BS, lengths_B = waves(16000)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise)
    inputs = extractor(waves_BS[0].numpy(), sampling_rate=16000, return_tensors="pt").input_values
    expected_BTD = feed_forward(model.encoder.layers[1].feed_forward, lambda: model(inputs))
    close(load_teacher(f"{spec}@2,part=ffn").embed(waves_BS, lengths_B)[0], expected_BTD)


@pytest.mark.parametrize("layer", [-1, 2])
def test_alone_equals_in_a_padded_batch(saved, layer):
    teacher = load_teacher(f"{saved[0]}@{layer}")
    assert teacher.batch_invariant
    waves_BS, lengths_B = waves(16000, 9000, 24321, 400, 16000)
    x_BTD, lens_B = teacher.embed(waves_BS, lengths_B)
    for row, (length, count) in enumerate(zip(lengths_B.tolist(), lens_B.tolist())):
        alone_BTD, alone_lens = teacher.embed(waves_BS[row : row + 1, :length], lengths_B[row : row + 1])
        assert alone_lens.tolist() == [count]
        close(x_BTD[row, :count], alone_BTD[0])


@pytest.mark.parametrize("name", ["wavlm-large", "hubert-base"])
def test_frame_counts_from_20_ms_to_40_s(name, tmp_path):
    spec, model = save(name, tmp_path)
    teacher = load_teacher(f"{spec}@1")
    for length in (320, 399, 400, 719, 720, 721, 16000, 16001, 123457, 640000):
        x_BTD, lens_B = teacher.embed(*waves(length))
        assert x_BTD.shape[1] == int(lens_B[0]) == expected_frames(length, teacher), length
        if length >= 400:
            with torch.no_grad():
                assert model.feature_extractor(waves(length)[0]).shape[2] == int(lens_B[0])


def test_long_audio_in_windows_is_close_to_the_whole(tmp_path):
    spec, _ = save("wavlm-large", tmp_path)
    waves_BS, lengths_B = waves(16000 * 9 + 77, 16000 * 4)
    whole, lens_B = load_teacher(f"{spec}@0").embed(waves_BS, lengths_B)
    cut, cut_lens = load_teacher(f"{spec}@0,window_seconds=4,overlap_seconds=1").embed(waves_BS, lengths_B)
    assert cut_lens.tolist() == lens_B.tolist() == [expected_frames(n, "wav2vec2-50hz") for n in lengths_B.tolist()]
    # What enters block 1 sees less than a second of context, so windows must not change it at all.
    close(cut, whole)
    deep, _ = load_teacher(f"{spec}@2,window_seconds=4,overlap_seconds=1").embed(waves_BS, lengths_B)
    assert deep.isfinite().all() and all(deep[row, :n].abs().sum(1).min() > 0 for row, n in enumerate(lens_B.tolist()))


def test_bfloat16_is_close_and_says_so(tmp_path):
    spec, _ = save("wavlm-large", tmp_path)
    exact, rough = load_teacher(f"{spec}@2"), load_teacher(f"{spec}@2,dtype=bfloat16")
    x_BTD, y_BTD = exact.embed(*waves(16000))[0], rough.embed(*waves(16000))[0]
    assert y_BTD.dtype == torch.float32 and (x_BTD - y_BTD).norm() < 0.05 * x_BTD.norm()
    assert exact.fingerprint()["dtype"] == "float32" and rough.fingerprint()["dtype"] == "bfloat16"


def test_fingerprints_are_of_the_weights(tmp_path):
    spec, model = save("hubert-large", tmp_path / "a")
    first = load_teacher(f"{spec}@1").fingerprint()
    model.save_pretrained(tmp_path / "b", max_shard_size="20KB")
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 1  # the same weights in other files
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path / "b")
    assert load_teacher(f"hubert:{tmp_path / 'b'}@1").fingerprint() == first
    assert str(tmp_path) not in json.dumps(first) and first["normalise"] is True
    with torch.no_grad():
        model.encoder.layers[2].feed_forward.output_dense.weight += 1e-3
    model.save_pretrained(tmp_path / "b")
    assert load_teacher(f"hubert:{tmp_path / 'b'}@1").fingerprint()["weights_sha256"] != first["weights_sha256"]


def whisper(folder):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "encoder_layers": BLOCKS}
    sizes |= {"decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 32, "vocab_size": 64}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    model = transformers.WhisperModel(transformers.WhisperConfig(**sizes)).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("layer", [-1, 0, 2, BLOCKS])
def test_whisper_encoder(tmp_path, layer):
    model = whisper(tmp_path)
    teacher = load_teacher(f"whisper:{tmp_path}@{layer}")
    waves_BS, lengths_B = waves(16000, 33333)
    extractor = transformers.WhisperFeatureExtractor()
    features = extractor([waves_BS[0, :16000].numpy(), waves_BS[1].numpy()], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        out = model.get_encoder()(features.input_features, output_hidden_states=True)
    x_BTD, lens_B = teacher.embed(waves_BS, lengths_B)
    assert lens_B.tolist() == [50, 104]
    for row, count in enumerate(lens_B.tolist()):
        if layer == BLOCKS:
            close(model.encoder.layer_norm(x_BTD[row, :count]), out.last_hidden_state[row, :count])
        else:
            expected = out.last_hidden_state if layer == -1 else out.hidden_states[layer]
            close(x_BTD[row, :count], expected[row, :count])
        alone, _ = teacher.embed(waves_BS[row : row + 1, : lengths_B[row]], lengths_B[row : row + 1])
        close(alone[0], x_BTD[row, :count])


def test_the_feed_forward_part_of_whisper(tmp_path):
    model, (waves_BS, lengths_B) = whisper(tmp_path), waves(16000)
    features = transformers.WhisperFeatureExtractor()(waves_BS[0].numpy(), sampling_rate=16000, return_tensors="pt")
    expected_BTD = feed_forward(model.encoder.layers[1].fc2, lambda: model.get_encoder()(features.input_features))
    close(load_teacher(f"whisper:{tmp_path}@2,part=ffn").embed(waves_BS, lengths_B)[0], expected_BTD[:, :50])


def test_whisper_counts_and_windows(tmp_path):
    whisper(tmp_path)
    teacher = load_teacher(f"whisper:{tmp_path}@1")
    for length in (320, 639, 640, 480000, 640000):
        x_BTD, lens_B = teacher.embed(*waves(length))
        assert x_BTD.shape[1] == int(lens_B[0]) == length // 320
        assert x_BTD.abs().sum(2).min() > 0


def test_whisper_window_keeps_the_first_positions(tmp_path):
    model = whisper(tmp_path)
    teacher = load_teacher(f"whisper:{tmp_path}@-1,window_seconds=2,overlap_seconds=0.5")
    waves_BS, lengths_B = waves(16000, 30000)
    config = transformers.WhisperConfig(**{**model.config.to_dict(), "max_source_positions": 100})
    short = transformers.WhisperModel(config).eval()
    state = model.state_dict()
    state["encoder.embed_positions.weight"] = state["encoder.embed_positions.weight"][:100]
    short.load_state_dict(state)
    extractor = transformers.WhisperFeatureExtractor(chunk_length=2)
    features = extractor([waves_BS[0, :16000].numpy(), waves_BS[1].numpy()], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = short.get_encoder()(features.input_features).last_hidden_state
    x_BTD, lens_B = teacher.embed(waves_BS, lengths_B)
    assert lens_B.tolist() == [50, 93]
    for row, count in enumerate(lens_B.tolist()):
        close(x_BTD[row, :count], expected[row, :count])
    whole = load_teacher(f"whisper:{tmp_path}")
    assert teacher.fingerprint()["weights_sha256"] != whole.fingerprint()["weights_sha256"]
    assert load_teacher(f"whisper:{tmp_path}@-1,window_seconds=30").fingerprint() == whole.fingerprint()
    x_BTD, lens_B = teacher.embed(*waves(100000))
    assert int(lens_B[0]) == 312 and x_BTD.abs().sum(2).min() > 0
    for seconds in ("31", "0.5"):
        with pytest.raises(ConfigError, match="1 to 30"):
            load_teacher(f"whisper:{tmp_path}@-1,overlap_seconds=0,window_seconds={seconds}")


def test_mert_is_read_as_the_hubert_that_it_is(tmp_path):
    spec, model = save("hubert-base", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mert_model", "sample_rate": 24000, "feature_extractor_cqt": False, "deepnorm": False}
    config["auto_map"] = {"AutoModel": "modeling_MERT.MERTModel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    teacher = load_teacher(f"mert:{tmp_path}@2")
    assert (teacher.sample_rate, teacher.frame_rate, teacher.frame_rule) == (24000, 75, "mert-75hz")
    waves_BS, lengths_B = waves(24000)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, sampling_rate=24000)
    inputs = extractor(waves_BS[0].numpy(), sampling_rate=24000, return_tensors="pt").input_values
    with torch.no_grad():
        expected = model(inputs, output_hidden_states=True).hidden_states[2]
    x_BTD, lens_B = teacher.embed(waves_BS, lengths_B)
    close(x_BTD, expected)
    assert lens_B.tolist() == [74]
    (tmp_path / "config.json").write_text(json.dumps(config | {"feature_extractor_cqt": True}))
    with pytest.raises(ConfigError, match="feature_extractor_cqt"):
        load_teacher(f"mert:{tmp_path}@2")


def test_wrong_folders_are_explained(tmp_path):
    spec, _ = save("hubert-base", tmp_path / "hubert")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no_weights").mkdir()
    (tmp_path / "no_weights/config.json").write_text((tmp_path / "hubert/config.json").read_text())
    for text, kind, message in (
        (f"wavlm:{tmp_path / 'hubert'}@1", ConfigError, "type 'hubert'"),
        (f"hubert:{tmp_path / 'empty'}@1", DataError, "nothing in it"),
        (f"hubert:{tmp_path / 'no_weights'}@1", DataError, "without weights"),
        (f"hubert:{tmp_path / 'nowhere'}@1", DataError, "nothing at"),
        (f"{spec}@{BLOCKS + 1}", ConfigError, f"-1 to {BLOCKS}"),
        (f"{spec}@1,window_seconds=2,overlap_seconds=1", ConfigError, "two overlaps"),
        (f"{spec}@1,normalise=yes", ConfigError, "true or false"),
    ):
        with pytest.raises(kind, match=message):
            load_teacher(text)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    spec, model = save("hubert-base", tmp_path)
    state = {key: value for key, value in model.state_dict().items() if "layers.2.attention.k_proj" not in key}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(DataError, match="(?s)k_proj.*all of them"):
        load_teacher(f"{spec}@1")
