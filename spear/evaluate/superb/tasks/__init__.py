"""The tasks by their names on the board."""

from spear.evaluate.superb.task import Task
from spear.evaluate.superb.tasks.diarization import Diarization
from spear.evaluate.superb.tasks.emotion import EmotionRecognition
from spear.evaluate.superb.tasks.keyword_spotting import KeywordSpotting
from spear.evaluate.superb.tasks.labels import IntentClassification, SpeakerIdentification
from spear.evaluate.superb.tasks.phoneme_recognition import PhonemeRecognition
from spear.evaluate.superb.tasks.query_by_example import QueryByExample
from spear.evaluate.superb.tasks.slot_filling import SlotFilling
from spear.evaluate.superb.tasks.source_separation import SourceSeparation
from spear.evaluate.superb.tasks.speaker_verification import SpeakerVerification
from spear.evaluate.superb.tasks.speech_recognition import SpeechRecognition

_ALL = (
    *(PhonemeRecognition, SpeechRecognition, KeywordSpotting, QueryByExample, SpeakerIdentification),
    *(SpeakerVerification, Diarization, IntentClassification, SlotFilling, EmotionRecognition),
    SourceSeparation,
)
TASKS: dict[str, Task] = {task.name: task() for task in _ALL}
