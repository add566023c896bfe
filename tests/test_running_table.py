"""Every row of the tables in docs/running.md has tests, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: By the first words of a row, its tests.
ROWS = {
    "runs of other resolutions": """
        test_runs_of_every_size_back_to_back_are_those_of_a_fresh_context
        test_images_of_one_prompt_are_those_made_one_by_one""",
    "a run of another step count": """
        test_another_step_count_is_mapped_with_a_notice test_another_grid_is_mapped_by_noise_level
        test_runs_of_other_step_counts_and_batch_sizes
        test_a_context_says_once_that_its_runs_are_computed_in_full""",
    "a run of no more steps than the budget": """
        test_a_run_of_fewer_steps_than_the_budget_is_computed_and_the_next_is_not
        test_a_run_of_no_more_steps_than_the_budget_computes_them_all""",
    "noise levels that rise": """
        test_a_policy_meets_any_grid test_an_inversion_computes_every_step
        test_an_inversion_s_grid_rises_to_its_end""",
    "noise levels that go up and down": """
        test_a_policy_meets_any_grid test_a_policy_measured_on_restarts_runs_on_their_grid""",
    "noise levels that are not finite": """
        test_a_policy_meets_any_grid test_what_a_scheduler_does_not_say_is_counted""",
    "two steps of one noise level": """
        test_a_policy_meets_any_grid test_duplicate_timesteps_are_positions_of_their_own
        test_a_span_that_cannot_be_forecast_is_computed""",
    "a plan, a policy or a forecaster of a plugin that fails": """
        test_a_plan_that_raises_leaves_the_run_computed
        test_a_span_that_cannot_be_forecast_is_computed""",
    "a scheduler whose `step` names its arguments otherwise": """
        test_a_scheduler_of_any_kind_is_followed_and_recorded
        test_a_step_that_cannot_be_read_is_followed_and_refused_by_name_for_calibration""",
    "timesteps or sigmas in a list": """
        test_a_scheduler_of_any_kind_is_followed_and_recorded
        test_what_a_scheduler_does_not_say_is_counted""",
    "a scheduler with `__slots__`": """
        test_a_step_that_cannot_be_watched_is_computed_and_refused_for_calibration""",
    "image to image with a strength": """
        test_strength_begins_where_the_image_enters test_strength_leaves_fewer_steps""",
    "image to image with a pipeline": """
        test_a_strength_without_begin_index_leaves_its_steps test_the_first_step_is_found_by_its_time""",
    "SDXL base with `denoising_end`": """
        test_denoising_end_completes_a_run_and_denoising_start_begins_one
        test_a_part_of_a_run_is_recorded_as_a_run""",
    "a panorama in several windows": "test_a_sampler_with_a_step_for_each_view_is_computed",
    "windows that shift": "test_windows_that_shift_are_forecast_by_their_order",
    "`pipe._interrupt`": """
        test_what_is_called_after_a_run_that_broke_off_is_computed test_outputs_die_with_the_call
        test_a_broken_run_does_not_leak_into_the_next
        test_an_interrupted_run_does_not_leak_into_the_next""",
    "the denoiser called by itself": """
        test_what_is_called_after_a_run_that_broke_off_is_computed
        test_a_call_of_another_thread_is_computed""",
    "guidance switched off": "test_guidance_cut_off_by_diffusers_own_callback",
    "guidance that ends where": """
        test_a_forecast_that_may_be_another_branch_s_is_an_error
        test_unnamed_branches_that_vanish_are_computed_from_then_on""",
    "velocity predictions whose state": "test_a_run_whose_states_are_lost_is_computed_from_there_on",
    "a callback that edits latents": "test_a_callback_that_edits_latents_is_obeyed",
    "a callback that switches prompts": """
        test_a_switched_prompt_counts_from_the_next_computed_step_on""",
    "two pipelines of one class": """
        test_two_pipelines_of_one_class_follow_their_own_schedules
        test_a_run_inside_another_pipeline_s_run_does_not_disturb_it""",
    "a pipeline made with `from_pipe`": """
        test_a_sibling_is_accelerated_while_the_context_is_open_and_plain_after""",
    "the same with a scheduler": """
        test_a_twin_with_a_scheduler_of_its_own_is_computed_with_a_warning
        test_a_twin_inside_a_run_is_computed_and_disturbs_nothing
        test_twins_have_a_schedule_each_in_threads_of_their_own""",
    "two transformers": """
        test_two_transformers_run_on_one_clock_and_one_budget test_calls_of_each_are_the_schedule_s""",
    "threads, each with a pipeline": "test_threads_with_a_pipeline_each_give_what_they_give_alone",
    "threads on one pipeline": """
        test_another_thread_s_run_on_a_pipeline_is_refused_and_disturbs_nothing
        test_threads_wait_for_their_turn_and_get_what_they_would_alone
        test_a_call_of_another_thread_is_computed""",
    "accelerating or enabling": """
        test_a_second_one_is_refused_and_the_first_one_removed_makes_room
        test_a_context_inside_a_context_is_refused_until_that_is_left""",
    "a handle that nobody keeps": """
        test_what_nobody_keeps_stays_on_until_it_is_removed test_it_dies_with_its_target
        test_copies_of_a_pipeline_do_not_carry_it""",
    "request-scoped pipelines": """
        test_request_scoped_twins_are_served_each_with_its_budget
        test_a_pipeline_with_the_scheduler_of_an_enabled_one_is_refused_with_advice""",
    "a pipeline or a loop of one's own that is a generator": """
        test_a_generator_around_a_scheduler_may_be_resumed_in_any_thread_and_shares_its_pauses
        test_pipelines_that_are_coroutines_are_distinguished_in_one_event_loop
        test_a_call_that_yields_is_under_way_between_its_steps""",
    "`module.compile()`": """
        test_graphs_are_those_of_the_plain_pipeline test_what_was_compiled_inside_stays_compiled_after
        test_a_loop_s_module_may_be_compiled_inside_too""",
    "model, sequential and group offloading": """
        test_offloading_before_the_context_and_inside_it test_a_skipped_step_loads_no_weights""",
    "a pipeline of `diffusers.ModularPipeline`": """
        test_a_modular_pipeline_follows_a_schedule_as_the_standard_one_does
        test_a_calibration_is_that_of_the_standard_pipeline
        test_call_arguments_are_those_of_the_blocks
        test_another_modular_pipeline_on_the_same_scheduler_is_reported
        test_a_modular_pipeline_without_its_parts_is_refused_with_advice""",
    "a guider": """
        test_every_branch_of_a_guider_is_forecast_from_its_own_outputs
        test_branches_share_weights_unless_guidance_is_linear_and_that_is_said
        test_guiders_may_be_replaced_shared_and_left_in_any_order""",
    "LoRA": """
        test_lora_is_loaded_fused_and_unloaded_inside_the_context test_lora_that_was_there_before_stays""",
    "bfloat16, float16": """
        test_half_precision_takes_the_same_decisions
        test_half_precision_is_accumulated_in_single_and_cast_once""",
    "`torch.inference_mode()`": "test_inference_mode_gives_what_no_grad_gives",
    "context parallelism": """
        test_ranks_take_identical_decisions test_no_collective_is_added_and_skipped_steps_make_none""",
    "MPS": "test_a_run_makes_no_float64_on_its_device",
    "`copy.copy`": """
        test_a_copied_pipeline_runs_plainly_and_can_be_accelerated
        test_a_copied_scheduler_counts_its_own_steps""",
    "a schedule that names a branch": "test_a_name_that_no_branch_has_is_said",
    "an IP-Adapter": "test_an_ip_adapter_is_skipped_with_the_step",
    "another cache on the denoiser": """
        test_a_cache_of_diffusers_is_refused_and_may_be_taken_off test_the_mark_of_cache_dit_is_refused
        test_text_keys_that_never_change_may_be_cached""",
    "`pipe.transformer` replaced": """
        test_another_denoiser_is_accelerated_from_the_next_run_on""",
    "`pipe.scheduler` replaced": """
        test_runs_under_another_scheduler_are_computed_and_it_is_said_once
        test_a_scheduler_replaced_during_a_run_ends_the_skipping""",
    "a budget, a step count": """
        test_an_integer_of_any_kind_is_taken_as_an_int test_what_is_no_integer_is_refused_by_name
        test_a_row_of_any_kind_is_taken_as_floats test_a_grid_is_checked
        test_numbers_of_a_run_are_taken_or_refused_by_name""",
    "a context left without": "test_a_context_left_without_a_run_of_its_target_says_so",
    "`calls_per_step` was forgotten": """
        test_calls_per_step_that_was_forgotten_is_an_error
        test_two_calls_of_one_time_are_refused_unless_specified""",
    "steps in a row that do carry": """
        test_the_calls_of_k_diffusion_s_heun_are_steps test_steps_of_one_time_may_be_specified_as_steps""",
    "guidance that begins or ends": "test_guidance_that_ends_during_a_run_is_refused",
    "guidance by a doubled batch": """
        test_guidance_that_ends_mid_run_starts_a_branch_of_its_own
        test_a_batch_that_halves_within_a_run_begins_another_and_is_never_mixed""",
    "fewer steps than announced": """
        test_a_loop_that_returns_early_says_so_aloud
        test_a_loop_that_makes_more_steps_is_an_error_and_the_next_run_is_clean
        test_what_the_device_has_seen_is_said_on_exit""",
    "the number of steps is not known": """
        test_a_loop_of_unknown_length_is_computed_and_says_what_to_give
        test_a_bare_module_is_wrapped_in_a_loop""",
    "the sampler calls another module": """
        test_a_loop_that_never_calls_the_denoiser_is_named
        test_a_context_left_without_a_run_of_its_target_says_so""",
    "a `grid=` function that fails": """
        test_a_grid_that_fails_is_not_known_and_steps_are_counted test_a_grid_is_checked""",
    "a run that begins at another time": """
        test_a_run_that_begins_at_another_time_is_said_once test_runs_of_a_loop_that_begin_elsewhere""",
    "a solver that chooses": "test_a_solver_that_rejects_steps_is_said_at_the_first_sign",
    "a run that breaks off": """
        test_a_run_that_broke_off_does_not_shift_the_next
        test_a_run_shifted_by_one_that_broke_off_is_refused_where_the_device_knows""",
    "a `sample_fn` that is a generator": """
        test_a_sampler_in_steps_is_accelerated_to_its_end
        test_a_generator_may_be_resumed_in_any_thread_and_shares_its_pauses
        test_a_sampler_in_steps_runs_to_its_final_state""",
    "a `sample_fn` that calls the denoiser in threads": """
        test_calls_from_threads_of_the_sampler_s_own_are_computed_and_the_reason_said""",
    "a second thread": """
        test_threads_do_not_wait_and_a_second_run_is_refused
        test_a_run_that_another_thread_begins_is_refused_and_the_first_goes_on
        test_a_call_of_another_thread_between_two_calls_spoils_neither_in_silence
        test_a_call_during_another_thread_s_call_leaves_that_alone""",
    "another cache switched on": """
        test_a_cache_enabled_while_accelerated_is_refused_at_the_next_run
        test_a_cache_enabled_on_a_bare_module_is_refused_at_its_next_run""",
    "linear, Taylor and fitted": """
        test_forecasts_are_those_of_a_loop test_without_a_grid_forecasts_count_steps""",
    "a policy": """
        test_a_policy_runs_on_a_module_as_in_the_loop_it_was_made_for
        test_a_policy_is_matched_by_noise_level""",
}


def _rows() -> list[str]:
    """Return the first cells of the tables about what happens."""
    text = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
    tables = [t for t in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE) if "what happens" in t]
    return [line.split("|")[1].strip() for t in tables for line in t.splitlines()[2:]]


def test_every_row_has_its_tests() -> None:
    found = [next((key for key in ROWS if row.startswith(key)), row) for row in _rows()]
    assert found == list(ROWS)


def test_the_tests_of_the_rows_are_there() -> None:
    files = [*ROOT.glob("tests/test_*.py"), *ROOT.glob("packages/*/tests/test_*.py")]
    named = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)
    there = {name for file in files for name in named.findall(file.read_text(encoding="utf-8"))}
    assert [name for names in ROWS.values() for name in names.split() if name not in there] == []
