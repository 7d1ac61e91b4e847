"""`spear synthesize`: makes the embedded synthetic corpus, offline and deterministic."""

from spear import config, log
from spear.audio.synthesis import CorpusConfig, synthesise_corpus


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, makes the corpus, prints what is in it."""
    settings = config.parse(CorpusConfig, argv, description=__doc__)
    log.setup()
    progress = log.Progress(1, "synthesis")
    summary = synthesise_corpus(settings)
    print(
        f"{settings.output}: {summary['items']} synthetic recordings, {summary['speech_minutes']} min of speech by "
        f"{summary['speakers']} voices, {summary['audio_minutes']} min of sounds and notes, "
        f"in {log.human_seconds(progress.elapsed_seconds)}"
    )
    return 0
