"""The embedded checkpoint `charm-tiny`: how it was made, its cross-validation and its baselines.

    DISTILL="examples/distill.py --config studies/charm_tiny/distill.yaml --photos PHOTOS --feature_cache MAPS \
        --teacher studies.charm_tiny.teachers:EfficientNetLite2 studies.charm_tiny.teachers:NimaMobileNet=NIMA.hdf5"
    python -m studies.charm_tiny.debian_photos UNPACKED PHOTOS/debian
    python -m studies.charm_tiny.start --photos PHOTOS --output_dir runs/start                     # seconds
    python $DISTILL --model_name_or_path runs/start --output_dir runs/small --num_views 128000 --learning_rate 2e-3 \
        --lr_scheduler_type constant_with_warmup --min_longest_edge 224 --max_longest_edge 320 --random_selection 0.3 \
        --ema_decay 0.998                              # 43 minutes of one core, and 8 for the teachers
    python $DISTILL --model_name_or_path runs/small --output_dir runs/large --num_views 51200 --learning_rate 1.5e-3 \
        --warmup_ratio 0.03 --min_longest_edge 384 --random_selection 0.3 --ema_decay 0.99     # 27 minutes of one core
    python -m studies.charm_tiny.head --model_name_or_path runs/large --photos PHOTOS --feature_cache MAPS \
        --teacher … --data_dir OASIS --cross_validate results.csv --output_dir runs/headed          # 3 minutes
    python -m studies.charm_tiny.publish runs/headed

`PHOTOS` holds photos without ratings, `OASIS` `images/` and `ratings.csv` (columns `image`, `category`, `split`, votes
`c1` to `c7`). Neither distillation sees a rated photo, so all folds share them; `head` holds its folds out. Every
seed is 0; the shipped weights come from these very commands.

`run.py`, with `pretrain.py`, is the first recipe (statistics of the rated photos, no teacher;
`results_first_recipe.csv`), and `baselines.py` what both are compared with.
"""
