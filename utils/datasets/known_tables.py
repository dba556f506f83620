"""Label tables of published data sets, recognised by their columns and cells."""
import re
from typing import NamedTuple

import pandas as pd

DR_GRADES = ('DR0', 'DR1', 'DR2', 'DR3', 'DR4')
MESSIDOR = 'both eyes of a patient are in the set: --join messidor-2.csv (from the publisher) keeps them in one split'
ENDO = 'for the folds of the paper, use tools.prepare_endo_data'


class KnownTable(NamedTuple):
    """The columns of a published table that hold the image, the class and the patient.

    `labels`: the class column, or a column of 0 and 1 for each class. `class_names`: names of the classes 0 to K-1, if the table has
    numbers. `patient_pattern`: finds the patient in the image id. `marks`: further columns by which the table is recognised. `hint`: what
    a user should know before the split.
    """
    title: str
    name: str  # of the csvs
    image: str
    labels: tuple[str, ...]
    patient: str = ''
    class_names: tuple[str, ...] = ()
    patient_pattern: str = ''
    marks: tuple[str, ...] = ()
    hint: str = ''


KNOWN_TABLES = (
    KnownTable('HAM10000', 'ham10000', 'image_id', ('dx',), patient='lesion_id'),
    KnownTable('ISIC 2019', 'isic2019', 'image', ('MEL', 'NV', 'BCC', 'AK', 'BKL', 'DF', 'VASC', 'SCC', 'UNK'), patient='lesion_id',
               hint='many lesions have several images: --join ISIC_2019_Training_Metadata.csv keeps them in one split'),
    KnownTable('ISIC 2018, task 3', 'isic2018', 'image', ('MEL', 'NV', 'BCC', 'AKIEC', 'BKL', 'DF', 'VASC'), patient='lesion_id',
               hint='many lesions have several images: --join ISIC2018_Task3_Training_LesionGroupings.csv keeps them in one split'),
    KnownTable('PAD-UFES-20', 'pad_ufes', 'img_id', ('diagnostic',), patient='patient_id'),
    KnownTable('IDRiD', 'idrid', 'Image name', ('Retinopathy grade',), class_names=DR_GRADES),
    KnownTable('Messidor-2', 'messidor2', 'image_id', ('adjudicated_dr_grade',), class_names=DR_GRADES, hint=MESSIDOR),
    KnownTable('Messidor-2', 'messidor2', 'id_code', ('diagnosis',), class_names=DR_GRADES, marks=('adjudicated_dme',), hint=MESSIDOR),
    KnownTable('APTOS 2019', 'aptos2019', 'id_code', ('diagnosis',), class_names=DR_GRADES),
    KnownTable('EyePACS', 'eyepacs', 'image', ('level',), class_names=DR_GRADES, patient_pattern=r'([^/]+?)\s*_(?:left|right)(?:\.\w+)*$'),
    KnownTable('Hyper-Kvasir', 'hyper_kvasir', 'Video file', ('Finding',), hint=ENDO),
    KnownTable('Hyper-Kvasir', 'hyper_kvasir', 'file-name', ('class-name',), hint=ENDO),
)


def find_known_table(table: pd.DataFrame) -> KnownTable | None:
    """-> the first known table whose columns `table` has, with the same kind of cells; None if there is none"""
    return next((known for known in KNOWN_TABLES if {known.image, *known.labels, *known.marks} <= set(table) and _fits(known, table)), None)


def _fits(known, table):
    """Return whether the cells may be those of a known table: its grades, and ids in which its pattern finds the patient."""
    grades, ids = pd.to_numeric(table[known.labels[0]].dropna(), errors='coerce'), table[known.image].dropna()
    return ((not known.class_names or grades.isin(range(len(known.class_names))).all())
            and (not known.patient_pattern or all(re.search(known.patient_pattern, image_id) for image_id in ids)))
