"""Label tables of published data sets, recognised by their columns."""
from collections.abc import Iterable
from typing import NamedTuple

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


def find_known_table(columns: Iterable[str]) -> KnownTable | None:
    """-> the first known table whose image, class and further columns are all among `columns`; None if there is none"""
    present = set(columns)
    return next((table for table in KNOWN_TABLES if {table.image, *table.labels, *table.marks} <= present), None)
