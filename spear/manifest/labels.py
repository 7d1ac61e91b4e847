"""Which recordings may serve as noise: sounds whose labels are known and name neither a person nor music.

SPEAR mixes noise into speech and sounds: never the audio corpora themselves, which are full of
talk and song, but lists from which they are left out by label. Labels are ids of the AudioSet ontology, or words.
"""

import re
from collections.abc import Mapping

# AudioSet's "Human sounds" and all below them, and two that bring speech along.
_HUMAN_SOUNDS = """
/m/0dgw9r Human sounds; /m/09l8g Human voice; /m/09x0r Speech; /m/05zppz Male speech, man speaking; /m/02zsn Female
speech, woman speaking; /m/0ytgt Child speech, kid speaking; /m/01h8n0 Conversation; /m/02qldy Narration, monologue;
/m/0261r1 Babbling; /m/0brhx Speech synthesizer; /m/07p6fty Shout; /m/07q4ntr Bellow; /m/07rwj3x Whoop; /m/07sr1lc
Yell; /m/04gy_2 Battle cry; /t/dd00135 Children shouting; /m/03qc9zr Screaming; /m/02rtxlg Whispering; /m/01j3sz
Laughter; /t/dd00001 Baby laughter; /m/07r660_ Giggle; /m/07s04w4 Snicker; /m/07sq110 Belly laugh; /m/07rgt08
Chuckle, chortle; /m/0463cq4 Crying, sobbing; /t/dd00002 Baby cry, infant cry; /m/07qz6j3 Whimper; /m/07qw_06 Wail,
moan; /m/07plz5l Sigh; /m/015lz1 Singing; /m/0l14jd Choir; /m/01swy6 Yodeling; /m/02bk07 Chant; /m/01c194 Mantra;
/t/dd00003 Male singing; /t/dd00004 Female singing; /t/dd00005 Child singing; /t/dd00006 Synthetic singing; /m/06bxc
Rapping; /m/02fxyj Humming; /m/07s2xch Groan; /m/07r4k75 Grunt; /m/01j423 Yawn; /m/01w250 Whistling; /m/079vc8
Wolf-whistling; /m/09hlz4 Respiratory sounds; /m/0lyf6 Breathing; /m/07mzm6 Wheeze; /m/01d3sd Snoring; /m/07s0dtb
Gasp; /m/07pyy8b Pant; /m/07q0yl5 Snort; /m/01b_21 Cough; /m/0dl9sf8 Throat clearing; /m/01hsr_ Sneeze; /m/07ppn3j
Sniff; /m/0bpl036 Human locomotion; /m/06h7j Run; /m/07qv_x_ Shuffle; /m/07pbtc8 Walk, footsteps; /m/0160x5
Digestive; /m/03cczk Chewing, mastication; /m/07pdhp0 Biting; /m/0939n_ Gargling; /m/01g90h Stomach rumble;
/m/03q5_w Burping, eructation; /m/02p3nc Hiccup; /m/02_nn Fart; /m/0k65p Hands; /m/025_jnm Finger snapping;
/m/0l15bq Clapping; /m/01jg02 Heart sounds, heartbeat; /m/01jg1z Heart murmur; /m/04xp5v Otoacoustic emission;
/m/0pv6y Tinnitus, ringing in the ears; /t/dd00012 Human group actions; /m/053hz1 Cheering; /m/028ght Applause;
/m/07rkbfh Chatter; /m/03qtwd Crowd; /m/07qfr4h Hubbub, speech noise, speech babble; /m/04v5dt Booing; /t/dd00013
Children playing; /m/07c52 Television; /m/06bz3 Radio
"""
HUMAN = dict(entry.split(None, 1) for entry in " ".join(_HUMAN_SOUNDS.split()).split("; "))
# "Music" and all below it. The authors' lists leave out what is human; much of the music holds singing that no label
# names, so here all of it is left out.
MUSIC = frozenset(
    """
/m/04rlf /m/04szw /m/0fx80y /m/0342h /m/02sgy /m/018vs /m/042v_gx /m/06w87 /m/01glhc /m/07s0s5r /m/018j2 /m/0jtg0
/m/04rzd /m/01bns_ /m/07xzm /m/05148p4 /m/05r5c /m/01s0ps /m/025cbm /m/0bxl5 /m/013y1f /m/03xq_f /m/03gvt /m/0l14qv
/m/01v1d8 /m/0gkd1 /m/03q5t /m/0l14md /m/02hnl /m/0cfdd /m/026t6 /m/06rvn /m/03t3fj /m/02k_mr /m/0bm02 /m/011k_j
/m/01p970 /m/01qbl /m/03qtq /m/0bm0k /m/0239kh /m/01sm1g /m/07brj /m/05r5wn /m/0xzly /m/0mbct /m/016622 /m/0j45pbj
/m/0dwsp /m/0dwtp /m/0dwt5 /m/0l156b /m/05pd6 /m/01kcd /m/0319l /m/07gql /m/07c6l /m/020w2 /m/0y64j /m/0l14_3
/m/02qmj0d /m/07y_7 /m/0d8_n /m/01xqw /m/02fsn /m/085jw /m/0l14j_ /m/06ncr /m/02pprs /m/03t22m /m/01wy6 /m/05kms
/m/01c3q /m/03m5k /m/0395lw /m/03w41f /m/027m70_ /m/0gy1t2s /m/07n_g /m/0f8s22 /m/026fgl /m/0150b9 /m/03qjg /m/0mkg
/m/0192l /m/02bxd /m/0l14l2 /m/07kc_ /m/0l14t7 /m/05229 /m/01vj9c /m/01hgjl /m/0kpv1t /m/064t9 /m/0glt670 /m/04j_h4
/m/0n8zsc8 /m/02cz_7 /m/06by7 /m/03lty /m/05r6t /m/0dls3 /m/0dl5d /m/07sbbz2 /m/05w3f /m/06j6l /m/0gywn /m/06cqb
/m/0190y4 /m/01lyv /m/015y_n /m/0gg8l /m/02x8m /m/02w4v /m/06j64v /m/03_d0 /m/026z9 /m/0ggq0m /m/05lls /m/02lkt
/m/03mb9 /m/07gxw /m/07s72n /m/029h7y /m/0283d /m/01f9gb /m/0m0jc /m/08cyft /m/0fd3y /m/052smk /m/07lnk /m/0m0fw
/m/0bmfpc /m/0g293 /m/02ccj9 /m/0ln16 /m/0kpck /m/080nby /m/05q7ms /m/0326g /m/0155w /m/05fw6t /m/02v2lh /m/0y4f8
/m/0z9c /m/0164x2 /m/0145m /m/022dgg /m/02mscn /m/016cjb /m/028sqc /m/015vgc /m/0dq0md /m/06rqw /m/02p0sh1 /m/05rwpb
/t/dd00027 /m/074ft /m/09dsr /m/05jcn /m/022c7z /m/05xp3j /m/01gp74 /m/0b128 /m/021wwz /m/0kc2j /m/03w6d1 /t/dd00028
/m/025td0t /m/02cjck /m/03r5q_ /m/0l14gg /m/07pkxdp /m/01z7dr /m/0140xf /m/0ggx5q /m/04wptg /t/dd00029 /t/dd00030
/t/dd00031 /t/dd00032 /t/dd00033 /t/dd00034 /t/dd00035 /t/dd00036 /t/dd00037
    """.split()
)
# Of labels in words, as FSD50K, VGGSound, ESC-50 and manifests of one's own have them.
HUMAN_WORDS = frozenset(
    """
    applause audience babbling babies baby beatboxing bellow booing boy breathing burping chant chanting chatter
    chattering cheering chewing child children choir chuckle clapping conversation cough coughing cries crowd crying
    eating female footsteps gargling gasp giggle giggling girl groan grunt hiccup hubbub human humming infant kid
    laugh laughing laughter lullaby male man men moan monologue narration people person radio rap rapping respiratory
    scream screaming shout shouting sigh singing slurping sneeze sneezing snicker snoring sobbing speak speaker
    speaking speech spoken talk talking television throat vocal vocals voice voices wail whimper whisper whispering
    whistling woman women yawn yell yelling yodeling yodelling
    """.split()
)
MUSIC_WORDS = frozenset("music musical song orchestra playing instrument".split())
_ID, _WORD = re.compile(r"/[mtg]/\w+"), re.compile(r"[^\W\d_]+")
_NO_CLASS = ("clip", "part", "set")  # keys whose values say nothing about what is heard


def human_label(labels: Mapping[str, str]) -> str:
    """The first label that counts as human, in words; empty when none does.

    Args:
        labels: values by key, such as {"labels": "/m/09x0r,/m/0bt9lr"} or {"class": "dog_bark"}.
    """
    return next((HUMAN.get(name, name) for name in _names(labels) if name in HUMAN or name in HUMAN_WORDS), "")


def may_be_noise(kind: str, labels: Mapping[str, str]) -> bool:
    """Whether a recording may be mixed in as noise: an event with labels, none of which is human or of music.

    Args:
        kind: speech, event or music.
        labels: see `human_label`; without any, nobody knows what is heard.
    """
    names = list(_names(labels))
    return (
        kind == "event"
        and bool(names)
        and not any(name in HUMAN or name in HUMAN_WORDS or name in MUSIC or name in MUSIC_WORDS for name in names)
    )


def _names(labels: Mapping[str, str]):
    """Ids and lower-case words of all labels."""
    for key, value in labels.items():
        if key not in _NO_CLASS:
            yield from _ID.findall(value)
            yield from _WORD.findall(_ID.sub(" ", value).lower().replace("_", " "))
