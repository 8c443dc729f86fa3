r"""The variables of BigBiGAN's encoder on TensorFlow Hub: GUESSES, to edit.

The released files were never seen here, and nothing public says how they call
the encoder's variables: EVERY name below is a guess in the style of the
generator's, which are known (generators/_biggan_tf.py). To read a file:

  python -m genrep_jax.encoders.contrib.bigbigan_variables > my_table.txt
  python -m genrep_jax.tools.convert_weights --list --source FOLDER
  ... edit my_table.txt until it says what the list says, and then
  python -m genrep_jax.tools.convert_weights --arch encoders/bigbigan \
      --source FOLDER --set table=my_table.txt --out X.safetensors

Whatever is missing, left over or of another shape is named.
"""

TABLE = """\
# Lines:
#   prefix TEXT          what the names of all the encoder's variables begin with
#   ignore PATTERN       variables of no use, below the prefix; * is any text
#   OURS = THEIRS        our leaf, and the variable below the prefix
#   OURS = zeros | ones  our leaf, and that the file does not hold it
# {x} on the left is any number, on the right that number, {x-1} or {x+1} its
# neighbor; {_x} and {_x-1} are nothing for 0, and _1, _2, ... else (GBlock,
# GBlock_1). The first line that fits a leaf counts, so exceptions go on top.
# A variable V beside which stands V/ema_0.9999 is ignored without a line.
# Kernels are HWIO and [in out] on both sides.

prefix GenEncWrapper/Encoder/
ignore *accumulation_counter
ignore *global_step

# The first layer of resnet50, then of revnet50x4 (guesses)
params/trunk/stem/conv/kernel = ResNet/conv_2d/w/ema_0.9999
params/trunk/stem/norm/scale = ResNet/BatchNorm/scale/ema_0.9999
params/trunk/stem/norm/bias = ResNet/BatchNorm/offset/ema_0.9999
batch_stats/trunk/stem/norm/mean = ResNet/BatchNorm/moving_mean
batch_stats/trunk/stem/norm/var = ResNet/BatchNorm/moving_variance
params/trunk/stem/kernel = ResNet/conv_2d/w/ema_0.9999

# Blocks of either: s stages from 1, b blocks from 0, c layers from 1 (guesses)
params/trunk/layer{s}_block{b}/conv{c}/kernel = ResNet/group_{s-1}/block{_b}/conv{c-1}/w/ema_0.9999
params/trunk/layer{s}_block{b}/norm{c}/scale = ResNet/group_{s-1}/block{_b}/BatchNorm{_c-1}/scale/ema_0.9999
params/trunk/layer{s}_block{b}/norm{c}/bias = ResNet/group_{s-1}/block{_b}/BatchNorm{_c-1}/offset/ema_0.9999
batch_stats/trunk/layer{s}_block{b}/norm{c}/mean = ResNet/group_{s-1}/block{_b}/BatchNorm{_c-1}/moving_mean
batch_stats/trunk/layer{s}_block{b}/norm{c}/var = ResNet/group_{s-1}/block{_b}/BatchNorm{_c-1}/moving_variance

# Shortcuts of resnet50 (guesses)
params/trunk/layer{s}_block{b}/shortcut_conv/kernel = ResNet/group_{s-1}/block{_b}/conv_sc/w/ema_0.9999
params/trunk/layer{s}_block{b}/shortcut_norm/scale = ResNet/group_{s-1}/block{_b}/BatchNorm_sc/scale/ema_0.9999
params/trunk/layer{s}_block{b}/shortcut_norm/bias = ResNet/group_{s-1}/block{_b}/BatchNorm_sc/offset/ema_0.9999
batch_stats/trunk/layer{s}_block{b}/shortcut_norm/mean = ResNet/group_{s-1}/block{_b}/BatchNorm_sc/moving_mean
batch_stats/trunk/layer{s}_block{b}/shortcut_norm/var = ResNet/group_{s-1}/block{_b}/BatchNorm_sc/moving_variance

# The last batch norm of revnet50x4 (guesses)
params/trunk/norm/scale = ResNet/BatchNorm/scale/ema_0.9999
params/trunk/norm/bias = ResNet/BatchNorm/offset/ema_0.9999
batch_stats/trunk/norm/mean = ResNet/BatchNorm/moving_mean
batch_stats/trunk/norm/var = ResNet/BatchNorm/moving_variance

# The batch norm of bn_crelu (guesses)
batch_stats/feature_norm/mean = BatchNorm/moving_mean
batch_stats/feature_norm/var = BatchNorm/moving_variance

# The head: b blocks from 0, l layers from 0 (guesses)
params/head/block{b}/linear{l}/kernel = MLP/block{_b}/linear{_l}/w/ema_0.9999
params/head/block{b}/linear{l}/bias = MLP/block{_b}/linear{_l}/b/ema_0.9999
params/head/block{b}/shortcut/kernel = MLP/block{_b}/linear_sc/w/ema_0.9999
params/head/linear_out/kernel = MLP/linear_out/w/ema_0.9999
params/head/linear_out/bias = MLP/linear_out/b/ema_0.9999
"""  # noqa: E501 (one variable, one line)

if __name__ == "__main__":
  print(TABLE, end="")
