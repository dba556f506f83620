"""The methods of the study, as flags of the train and test scripts. A comma outside of parentheses separates the two stages."""
import re

NO_METHOD = '--sampling instance --loss_fn CE --loss_params --mixing none --mixup_off_epochs 0 --defer 0 --trainable all'  # plain training
ONE_STAGE = {  # name -> flags
    'CE': '', 'BSCE': '--loss_fn BSCE', 'class sampling': '--sampling class', 'sqrt sampling': '--sampling sqrt', 'CDT': '--loss_fn CDT',
    'CE-DRW': '--defer 0.8', 'LDAM-DRW': '--loss_fn LDAM --defer 0.8', 'Balanced-MixUp 0.1': '--do_mixup 0.1',
    'Balanced-MixUp': '--do_mixup 0.2', 'Balanced-MixUp 0.3': '--do_mixup 0.3',
    'sqrt sampling + LA 0.5': '--sampling sqrt --loss_fn LA --loss_params tau=0.5', 'FOCAL': '--loss_fn FOCAL', 'VS': '--loss_fn VS',
    'WCE': '--loss_fn WCE', 'MixUp + BSCE': '--mixing mixup --mix_alpha 0.4 --mixup_off_epochs 3 --loss_fn BSCE',
    'LADE': '--loss_fn LADE', 'SEESAW': '--loss_fn SEESAW',
}
# One change at a time, to find when Balanced-MixUp helps: of the training, also without mixing, and of the mixing. With a plateau schedule,
# the metric and the length of the training also change the rate, so these changes start from a step schedule.
TRAINING_CHANGES = {'batch 32': '--batch_size 32', 'step': '--schedule step', 'step, by loss': '--schedule step --metric loss',
                    'step, 60 epochs': '--schedule step --n_epochs 60'}
MIXING_CHANGES = {'per image': '--variant per_image', 'symmetric': '--variant symmetric',
                  'step, off at the end': '--schedule step --mixup_off_epochs 10'}
ONE_STAGE |= {f'CE ({change})': flags for change, flags in TRAINING_CHANGES.items()}
ONE_STAGE |= {f'Balanced-MixUp ({change})': f'--do_mixup 0.2 {flags}' for change, flags in (TRAINING_CHANGES | MIXING_CHANGES).items()}
TWO_STAGE = {  # 'stage one, stage two' -> flags of stage two; {fine_tuning} is a quarter of --lr
    'CE, cRT': '--trainable classifier --sampling class', 'CE, LWS': '--trainable scale --sampling class',
    'CE, cRT BSCE': '--trainable classifier --loss_fn BSCE', 'CE, cRT LAS': '--trainable classifier --sampling class --loss_fn LAS',
    'CE, BSCE': '--loss_fn BSCE --lr {fine_tuning:g}', 'Balanced-MixUp, BSCE': '--loss_fn BSCE --lr {fine_tuning:g}',
}
POST_HOC = {  # name -> trained method, flags of the test script
    'CE + tau-norm': ('CE', '--tau_norm'), 'CE + logit adjustment': ('CE', '--logit_adjust'), 'CE + calibration': ('CE', '--calibrate'),
    'BSCE + calibration': ('BSCE', '--calibrate'), 'BSCE + training prior': ('BSCE', '--calibrate', '--target_prior', 'train'),
    'BSCE + 8 copies': ('BSCE', '--dihedral_tta', '4'),
}
METHODS = (*ONE_STAGE, *TWO_STAGE, *POST_HOC)
PRETRAINED = ('CE', 'class sampling', 'sqrt sampling', 'sqrt sampling + LA 0.5', 'BSCE', 'CE + logit adjustment', 'CDT', 'LDAM-DRW',
              'CE-DRW', 'Balanced-MixUp 0.1', 'Balanced-MixUp', 'Balanced-MixUp, BSCE', 'CE, cRT', 'CE, LWS', 'CE, BSCE')
BASELINE = 'CE'


def slug_of(method):
    """-> name of the folder of a method"""
    return re.sub(r'[ ,+(]+', '_', method.rstrip(')'))
