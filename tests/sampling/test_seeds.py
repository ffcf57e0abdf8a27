from maskdpo_ray.sampling.seeds import MAX_CANDIDATES, question_seed

IDS = [f"question {i}" for i in range(5000)]


def test_seeds_fit_arrow_and_torch_with_all_their_candidates():
    import torch

    seeds = [question_seed(0, i) for i in IDS]
    assert min(seeds) >= 0
    assert max(seeds) + MAX_CANDIDATES - 1 < 2**63
    assert max(seeds) > 2**62  # the range is used
    torch.Generator().manual_seed(max(seeds) + MAX_CANDIDATES - 1)


def test_no_two_questions_share_a_candidates_seed():
    seeds = sorted(question_seed(7, i) for i in IDS)
    gaps = [b - a for a, b in zip(seeds, seeds[1:], strict=False)]
    assert min(gaps) >= MAX_CANDIDATES


def test_seeds_depend_on_run_and_question_alone():
    assert question_seed(1, "a") == question_seed(1, "a")
    assert question_seed(1, "a") != question_seed(2, "a")
    assert question_seed(1, "a") != question_seed(1, "b")
    assert question_seed(1, "1a") != question_seed(11, "a")


def test_seeds_stay_the_same_between_versions():
    assert question_seed(0, "q1") == 8248448130927493120
