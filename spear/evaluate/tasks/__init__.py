"""The tasks by their names on the board."""

from spear.evaluate.task import Task
from spear.evaluate.tasks.diarization import Diarization
from spear.evaluate.tasks.emotion import EmotionRecognition
from spear.evaluate.tasks.events import EventDetection
from spear.evaluate.tasks.keyword_spotting import KeywordSpotting
from spear.evaluate.tasks.labels import IntentClassification, SpeakerIdentification
from spear.evaluate.tasks.phoneme_recognition import PhonemeRecognition
from spear.evaluate.tasks.query_by_example import QueryByExample
from spear.evaluate.tasks.slot_filling import SlotFilling
from spear.evaluate.tasks.source_separation import SourceSeparation
from spear.evaluate.tasks.speaker_verification import SpeakerVerification
from spear.evaluate.tasks.speech_recognition import SpeechRecognition

_ALL = (
    *(PhonemeRecognition, SpeechRecognition, KeywordSpotting, QueryByExample, SpeakerIdentification),
    *(SpeakerVerification, Diarization, IntentClassification, SlotFilling, EmotionRecognition),
    *(SourceSeparation, EventDetection),
)
TASKS: dict[str, Task] = {task.name: task() for task in _ALL}
