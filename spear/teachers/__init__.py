"""Teachers: frozen models whose frames become the targets, behind one protocol."""

from spear.teachers.base import IDENTITY_KEYS, Teacher, TeacherSpec, weights_sha256
from spear.teachers.registry import identity_of, load_teacher, register, teacher_names

__all__ = [
    "IDENTITY_KEYS",
    "Teacher",
    "TeacherSpec",
    "identity_of",
    "load_teacher",
    "register",
    "teacher_names",
    "weights_sha256",
]
