"""Names that moved between 0.1.0 and 0.2.0. For one version an old import still works, and warns with the new name.

Python calls the finder below for every import; it handles only modules of this package. It reads only the two tables in
this file, so no data from outside can select an import.
"""

import sys
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULES = """
attacks.adapting attacks.after_adaptation
attacks.lies attacks.model_poisoning
attacks.poison attacks.data_poisoning
draws randomness
engines.abreast executors.grouped_step
engines.compiling executors.cpp_compiler
engines.exact engines.exact_sum
engines.factoring executors.factored
engines.fused executors.fused
engines.fused.block executors.fused.triton_kernel
engines.fused.blocks executors.fused.triton_launch
engines.fused.calling executors.fused.cpp_launch
engines.fused.perceptron executors.fused.mlp_tracer
engines.fused.plan executors.fused.spec
engines.kept engines.client_state_store
engines.looping executors.loop
engines.meeting executors.lockstep
engines.owning engines.base
engines.planning engines.autotune
engines.pooling executors.max_pool
engines.ranks engines.process_group
engines.recording executors.cuda_graphs
engines.room engines.memory_info
factored lowrank.factored_matrix
fast lowrank.fast_weights
federation deployment.federation
federation.faulty deployment.federation.fault_injection
federation.inbox deployment.federation.inbox
federation.local deployment.federation.local_transport
federation.log deployment.federation.event_log
federation.plan deployment.federation.protocol
federation.progress deployment.federation.state_machine
federation.sums deployment.federation.fixed_point_mean
federation.terms deployment.federation.round_policy
flower deployment.flower
flower.app deployment.flower.app_bundle
flower.ending deployment.flower.signals
flower.founding deployment.flower.init
flower.joining deployment.flower.join
flower.keys deployment.flower.certificates
flower.processes deployment.flower.flower_processes
flower.roster deployment.flower.key_roster
flower.serving deployment.flower.serve
flower.transport deployment.flower.flower_transport
gate rounds.message_validation
learning.coupled learning.class_block_solver
learning.generating learning.parameter_generation
learning.normalising learning.batchnorm_training
learning.partial learning.parameter_subsets
learning.probe learning.path_length
learning.quadratic learning.svm_qp
models.several models.model_zoo
peers deployment.peers
peers.channel deployment.peers.noise_channel
peers.circle deployment.peers.address_book
peers.diary deployment.peers.output
peers.flow deployment.peers.exchange
peers.letters deployment.peers.messages
peers.memory deployment.peers.peer_state
peers.running deployment.peers.peer_loop
peers.terms deployment.peers.peer_policy
privacy.audit audit.attacks
privacy.audit.canaries audit.attacks.canary_bound
privacy.audit.inversion audit.attacks.layer_inversion
privacy.audit.labels audit.attacks.label_leak
privacy.audit.matching audit.attacks.gradient_matching
privacy.audit.membership audit.attacks.membership_inference
privacy.audit.properties audit.attacks.property_inference
privacy.differential.clipping privacy.differential.contribution_clip
privacy.differential.distributed privacy.differential.distributed_noise
privacy.differential.joint privacy.differential.joint_ledger
privacy.differential.local privacy.differential.local_noise
privacy.secure.client privacy.secure.secagg_client
privacy.secure.dealing privacy.secure.groups
privacy.secure.forms privacy.secure.mechanisms
privacy.secure.noised privacy.secure.noised_sum
privacy.secure.protocol privacy.secure.secagg_protocol
privacy.secure.server privacy.secure.secagg_server
privacy.secure.summed privacy.secure.sum_engine
privacy.secure.together privacy.secure.in_process
reducers aggregation
reducers.clipping aggregation.norm_bounding
reducers.coordinates aggregation.coordinatewise
reducers.each aggregation.no_reduce
reducers.mixing aggregation.nnm
reducers.trust aggregation.root_trust
runs experiments
runs.agreement deployment.agreement
runs.auditing audit
runs.auditing.audit audit.run_attacks
runs.auditing.members audit.members
runs.auditing.noise audit.noise_probe
runs.auditing.page reports.audit_report
runs.auditing.pictures reports.png
runs.auditing.properties audit.client_properties
runs.bench bench
runs.bench.plain bench.plain_loop
runs.build experiments.factories
runs.charts reports.charts
runs.comparison_page reports.comparison_report
runs.described experiments.signatures
runs.directory experiments.run_directory
runs.experiment experiments.builder
runs.federating deployment.server_folder
runs.hostile experiments.byzantine
runs.identity experiments.identity
runs.news deployment.log_lines
runs.page reports.page
runs.peering deployment.peers_folder
runs.personal experiments.adapt
runs.pipeline experiments.stages
runs.prometheus deployment.metrics
runs.protection experiments.privacy_plan
runs.recipes experiments.presets
runs.report reports.run_report
runs.roster deployment.member_roster
runs.rounding experiments.precision_check
runs.secured experiments.secure_aggregation
runs.settings experiments.config
runs.several experiments.multi_rank
runs.standing deployment.status
runs.start experiments.launch
runs.training experiments.train_stage
runs.watching experiments.progress
runs.written experiments.toml_text
stored serialization
tasks data
tasks.readers.intact data.readers.checksums
tasks.unread data.row_references
wire deployment.wire
"""  # old module, new module; a package moves with all that is in it

NAMES = """
algorithms.apfl: Own=APFLState
algorithms.catalogue.averaging: HEART=PUBLISHED_FIGURES
algorithms.catalogue.entries: Entry=CatalogueEntry Schedule=ScheduleName
algorithms.catalogue.heads: ONE=HEAD_GRADIENT_COST
algorithms.catalogue.meta: ONE=META_GRADIENT_COST ORDERS=META_ORDERS
algorithms.fd: Own=FDState Table=LogitTable
algorithms.feddf: in_turn=assign_architectures
algorithms.fedmd: CERTAIN=CERTAIN_LOGIT
algorithms.pfedhn: OWN=NEWCOMER_EMBEDDING
attacks.attack: Attacked=AttackedEngine Poisoned=PoisonedTasks Seen=HonestMessages Triggered=TriggeredTasks
    as_it_is=no_attack judged_on=backdoor_judge
attacks.lies: infinite=send_infinity noise=gaussian_noise not_a_number=send_nan
attacks.tailored: search=search_strength
cli.options: Algorithm=AlgorithmOption Attack=AttackOption Engine=EngineOption Executor=ExecutorOption
    Processes=ProcessesOption
draws: initialising=seeded_init
engines: PIECE=CLIENTS_A_PIECE
engines.abreast: Each=ClientBatchTensor NotAbreast=NotGroupable alike=can_group core=core_objective
    stepped_abreast=grouped_train unmasked_all=all_without_mask
engines.compiling: PATIENCE=COMPILE_TIMEOUT built=library_path
engines.crew: Call=PoolCall Crew=WorkerPool Given=WorkItem TRIES=MAX_TRIES refusal=why_no_workers
engines.distributed: HELD=MAX_HELD_BYTES LEAST=MIN_ASKED Only=LocalOnly Partial=PartialSum dealt=assign_clients
engines.exact: BLOCK=SUM_BLOCK LARGEST=LARGEST_TERM STEPS=GRID_STEPS
engines.factoring: Factoring=FactoredExecutor rows_of=examples_per_task worth=is_worthwhile
engines.fused: Fused=FusedExecutor
engines.fused.batched: Layer=BatchedLayer PARTS=CLIENT_PARTS by_products=train_batched
engines.fused.block: train=train_kernel
engines.fused.blocks: Form=TileSpec LEAST=MIN_TILE LONGEST=MAX_BATCH MOST=MAX_WEIGHTS SMALL=FEW_WARPS_WORK
    Unfit=DoesNotFit by_blocks=launch_triton form=tile_spec interpreted=is_interpreted lacking=missing_requirements
engines.fused.calling: PLACES=JOB_FIELDS TYPES=CPP_KERNELS by_kernel=launch_cpp
engines.fused.perceptron: Dense=DenseLayer Unlike=NotAnMLP perceptron=trace_mlp
engines.fused.plan: Plan=FusedSpec Way=OptimizerSpec
engines.handing: ALIGNED=LEAF_ALIGNMENT HEAD=HEADER_BYTES Memory=SharedMemory Named=NamedTuplePart Parts=FactoredParts
    Piece=SharedPiece Several=SharedTrees
engines.kept: ALIGNED=SLOT_ALIGNMENT Entry=StoreEntry KINDS=KINDS_FILE OnDisk=ClientStateStore Slots=SlotFile
engines.looping: Path=ClientTrainer Unmasked=UnmaskedLoss looping=loop_executor stepped=train_by_steps
    unmasked=without_mask
engines.meeting: Meeting=Lockstep PARTS=COLUMN_PARTS Products=SharedProducts Together=TrainTogether
    here=current_lockstep in_lockstep=run_in_lockstep in_parts=split_columns
engines.owning: Owning=BaseEngine
engines.planning: AT_ONCE=GROUPED_EXECUTORS FEW=TRIAL_CLIENTS MOST=MAX_TRIAL_CLIENTS Planned=AutoEngine
    Plans=TuningCache Refused=ExecutorRefused Tried=Trial described=describe_function shared_plans=shared_tuning_cache
engines.pooling: Pooling=MaxPoolSwitch TYPES=POOL_KERNELS quick=fast_max_pool
engines.processes: COPIES=WEIGHT_COPIES
engines.ranks: Alone=SingleProcess Ranks=ProcessGroup Together=JoinedProcesses beside=local_world_size
    decided=broadcast_flag here=current_group joined=init_group launched=is_torchrun
engines.recording: EXACT=EXACT_LENGTHS Flat=FlatFunction MOST=MAX_RECORDINGS Record=RecordFunction
    Recorder=GraphRecorder evened=pad_lengths near=agrees_up_to_rounding
engines.room: LIMITS=CGROUP_FILES available=available_memory keep_freed=keep_freed_memory megabytes=memory_use
engines.vectorised: CHUNK=CPU_CHUNK COPIES=GPU_COPIES WIDE=GPU_CHUNK
errors: nearest=closest_name
evaluation: Summary=ScoreSummary before_adapting=without_adaptation renumbered=renumber_clients
factored: BLOCK=PRODUCT_BLOCK Heard=GradRecorder Lazy=UnformedMatrix Longest=LongestRow Rows=OuterProducts
    Stacked=StackedFactored Sums=RowSums checkpointed=checkpoint_linear dense=as_dense_leaf finite=is_finite_leaf
    heard_linears=record_linears heard_product=recorded_product inner=inner_product multiplied_by=multiplying
    products=batched_matmul shell=unformed_like
fast: Fast=FastWeights Terms=OuterTerms slopes=fast_gradients
federated: Around=EngineWrapper Group=MessageBatch adapting=personalise_by model_in=params_of no_memory=stateless
    same_for_all=broadcast undiminished=no_discount
federation.faulty: Faults=FaultRates Faulty=FaultyTransport
federation.inbox: AT_ONCE=FRAMES_AT_ONCE
federation.journal: OWN=JOURNAL_FILES AGAIN=RESTART_SERVER Record=JournalRecord START=CHAIN_START read=read_journal
    written=encode_record
federation.local: Local=LocalTransport PATIENCE=FRAME_TIMEOUT join=run_local_node next_frame=receive_frame
federation.log: Log=EventLog
federation.node: AGAIN=RESTART_NODE MEMORY=STATE_FILE Memory=NodeState remembered=load_node_state talk=handle_letters
federation.plan: Mould=MessageSchema Plan=FederationProtocol
federation.progress: NORMS=GUARD_NORMS Progress=FederationState follow=apply_record progress=replay_journal
federation.server: LEAST=MIN_GUARD_ROUNDS Outcome=RoundOutcome REMARKS=MAX_LOGGED_LETTERS TooFewAnswer=TooFewReplies
federation.sums: WholeMean=FixedPointMean
federation.terms: Terms=RoundPolicy
flower.addresses: NAME=HOST_NAME joined=join_address parted=parse_address
flower.app: write_app=write_app_bundle
flower.fleet: BROKEN=HANDSHAKE_ERRORS Client=FleetClient BEAT=NODE_HEARTBEAT reason=reason_of
flower.founding: PORT=SERVER_PORT found=init_federation
flower.gate: App=AsgiApp SMALL=MAX_SMALL_BODY
flower.joining: AGAIN=RETRY_DELAY join=join_federation
flower.keys: AGAIN=REMAKE_FEDERATION
flower.processes: QUIET=QUIET_ENVIRONMENT
flower.roster: AT_ONCE=CALLS_AT_ONCE QUIET=REMARK_INTERVAL Roster=KeyRoster
flower.serving: WAIT=SERVE_POLL bound=bind_socket opened=open_port serve=serve_federation told=follow_log
flower.superlink: BEAT=SERVER_HEARTBEAT
flower.transport: AGAIN=RESEND_DELAY Asked=PendingLetter
gate: Admitted=Validated Gate=MessageValidator
learning.adaptations: Each=RateGranularity Order=MetaGradient chain=chain_adaptations everything=all_parameters
    learned_path=learned_rates_path
learning.coupled: Factors=BlockFactors factor=factor_blocks solve=solve_blocks
learning.distillation: distilled=distillation_loss in_turn=cycle_batches taught_by=with_teacher
learning.finetuning: along=adapt_along_path
learning.generating: Layer=GeneratedLayer NARROW=INITIAL_LOG_SIGMA numbers=noise_length
learning.head_steps: NotAHead=NotALinearHead
learning.heads: learned_numbers=learned_scalars
learning.hypernetwork: generated=generate_parameters
learning.implicit: implicit=implicit_gradient
learning.networks: apply_perceptron=apply_mlp dense=init_dense gru=init_gru perceptron=init_mlp
learning.normalising: Normalised=WithBatchStatistics measured=measure_statistics measured_once=measure_statistics_once
    normalised=with_batch_statistics
learning.objectives: Near=Proximal after=meta_objective near=proximal recomputed=recompute_forward
    tilted=with_linear_term
learning.optimizers: annealed=with_schedule
learning.partial: nothing=empty_part outside=outside_part part=part_named within=inside_part
learning.quadratic: CLOSED=GAP_TOLERANCE Point=InteriorPoint
learning.training: Explicit=ExplicitGradient Local=LocalWork Say=Log Trained=TrainResult found_gradients=use_gradients
    silently=no_log trained_by=use_executor
limits: CHUNK=READ_CHUNK SMALL=MAX_UNFOLDED first_line=first_line_of opened=open_bounded
locks: LOCAL=LOCAL_LOCK_OPTIONS held=hold_lock locked=lock_file
models: is_image=is_image_shape
models.model: Slots=ParameterSlots
models.precision: products=matmul_precision settle=set_precision
models.several: Several=ModelZoo
models.split: Halves=SplitHalves Split=SplitNet
peers.channel: LENGTH=FRAME_LENGTH NAME=NOISE_NAME Stream=ByteStream
peers.circle: Circle=AddressBook parted=split_address read_secret=read_peer_secret write_secret=write_peer_secret
peers.diary: Diary=PeerOutput
peers.flow: flow=exchange_flow plus=add_flow
peers.letters: Letters=PeerMessages Note=StatusMessage Offered=Offer Status=PeerStatus mixed_of=mixed_part
    with_mixed=with_mixed_part
peers.link: Link=PeerLink
peers.memory: AGAIN=RESTART_PEER FILE=PEER_STATE_FILE Memory=PeerState load=load_peer_state of_whom=state_owner
    save=save_peer_state
peers.network: AGAIN=RECONNECT_DELAY LARGEST=DEFAULT_MAX_MESSAGE LENGTH=MESSAGE_LENGTH LINGER=SOCKET_LINGER
    Network=PeerNetwork
peers.peer: Alone=NoPeersHeard REMARKS=MAX_LOGGED_REMARKS
peers.running: AT_ONCE=MESSAGES_AT_ONCE run=run_peer
peers.terms: Terms=PeerPolicy
privacy.audit.canaries: Guesses=CanaryGuesses guess=guess_canaries
privacy.audit.inversion: best=best_match guess=mean_guess
privacy.audit.labels: balanced=balanced_accuracy present=present_classes
privacy.audit.matching: matched=match_gradient
privacy.audit.membership: Rate=RateInterval ceiling=dp_ceiling true_positives=true_positive_rate
privacy.audit.properties: Area=AreaUnderCurve area=roc_area told_apart=train_property_classifier
privacy.differential.accountant: KINDS=MAX_RELEASE_KINDS ORDERS=RENYI_ORDERS release=release_event
privacy.differential.binding: digest=digest_of
privacy.differential.central: Sent=PrivateSent private=with_privacy public=public_info split=split_multiplier
privacy.differential.clipping: LEAST=MIN_SHORTENING clipped=clip_contribution
privacy.differential.discrete: CHUNK=DRAWN_AT_ONCE Flat=FlatArray Grid=NoiseGrid LARGEST=LARGEST_VARIANCE
    SMALLEST=SMALLEST_VARIANCE rounded=round_randomly
privacy.differential.distributed: Distributed=DistributedNoise
privacy.differential.ledger: charged=charge_rounds
privacy.differential.mechanisms: Local=LocalPrivacy SUM=SUM_PURPOSE
privacy.differential.noise: Words=NoiseWords
privacy.differential.records: Noised=NoisedBatch
privacy.secure.additive: Share=AdditiveShare combine=combine_shares split=split_shares
privacy.secure.dealing: dealt=assign_groups losing=lose_at_random nobody=no_losses
privacy.secure.encoding: Encoding=MessageEncoding Weighted=WeightedEncoding flat=flatten unflat=unflatten
privacy.secure.fixed_point: Grid=FixedPointGrid NotSent=NotEncodable Words=GridWords add=add_modular
privacy.secure.forms: Form=SumMechanism Masks=MaskedSums Shares=SharedSums Unmasked=PlainSums
    refuse_few=require_enough_clients
privacy.secure.keys: Stream=KeyStream agreed=shared_key expanded=expand_key is_signed=verify_signature seal=encrypt
    unseal=decrypt
privacy.secure.masks: PIECE=MASK_BLOCK own_mask=self_mask_of
privacy.secure.noised: Noised=NoisedEncoding
privacy.secure.odds: CERTAIN=IMPOSSIBLE
privacy.secure.protocol: Aborted=RoundAborted Keys=AdvertisedKeys Masked=MaskedInput Plan=SecAggPlan
    Refused=ClientAbort Shares=UnmaskShares Unmasking=UnmaskRequest
privacy.secure.shamir: SIZE=SHARE_BYTES reconstruct=reconstruct_secret search=search_shares share=share_secret
privacy.secure.summed: REASONS=LOSS_REASONS Summed=SecureSumEngine
privacy.secure.together: NOBODY=NO_LOSSES Sum=SecureSum added=add_words
reducers: STEPS=PRE_AGGREGATIONS make=make_rule parts=rule_factories
reducers.each: Each=NoReduce each=no_reduce
reducers.robust: COLUMNS=COLUMN_BLOCK TooFew=TooFewMessages averaged=weighted_rows chain=chain_rules
    hostile=max_byzantine lengths=row_norms middle=median_of over_columns=by_columns
reducers.trust: trusted=fltrust_rule
rounds.asynchronous: Ahead=AheadOfTime Work=InFlight
rounds.gossip: Order=GossipOrder apart=consensus_distance stepped=local_server_step
rounds.mixing: Mix=MixingMatrix TRIES=GRAPH_TRIES complete=complete_graph grid=grid_graph links_of=topology_links
    pushed=push_sum_weights
rounds.round: Part=MessagePart averaged=mean_info named=by_client_name nobodys=empty_cohort_replies
    unnamed=by_client_id
runs.agreement: FILE=AGREEMENT_FILE LOCAL=MEMBER_SETTINGS NAME=MEMBER_NAME
runs.auditing.audit: audit=audit_subject
runs.auditing.canaries: LOCAL=LOCAL_NOISE_REASON canaries=probe_canaries guessed=guess_participation
    ledger=check_ledger share_seen=share_of_rounds
runs.auditing.findings: Row=AttackRow mean_of=mean_with_interval
runs.auditing.leaks: SHOWN=MAX_PICTURES EXACT=EXACT_PSNR FEW=SMALL_CLIENTS MOST=MAX_SUM_CLIENTS Sent=SentMessage
    inverted=invert_inputs
    labelled=infer_labels reason=why_not_attacked searched=search_inputs sent=messages_of_clients
runs.auditing.members: Attacked=MembershipResult LOCAL=LOCAL_REASON attacked=attack_trainings figure=membership_figure
    halved=random_halves members=probe_membership trained=train_on_half
runs.auditing.noise: ROUNDS=PROBED_ROUNDS fresh=fresh_rows
runs.auditing.page: LIMITS=LIMITS_TEXT page=audit_page spelt=format_figure
runs.auditing.pictures: below=stack_images beside=side_by_side_images
runs.auditing.properties: POOLED=POOL_ROUNDS bright=is_bright commonest=most_common_class drawn=draw_clients
    flat=flatten_update
    found=property_finding in_sum=within_sum inferred=infer_property judged=judge_classifier made=make_clients
    noised=release_message
runs.auditing.views: Given=FixedMessages LEAST=MIN_VIEW_CLIENTS released=release_of
runs.bench.plain: plain=plain_loop
runs.bench.race: Row=BenchRow bench=run_bench raced=race_contestants
runs.bench.workloads: numbers=count_parameters
runs.build: build=build_from_settings settable=settable_parameters
runs.charts: MANY=MAX_LINE_POINTS grouped=dot_groups NARROW=NARROW_ROW Point=ChartPoint text=escape_text
runs.comparison: Cell=ComparisonCell Row=ComparisonRow compare=compare_algorithms
runs.comparison_page: cell=format_cell in_order=rank_rows verdict=comparison_verdict
runs.described: described=describe_settings first_line=first_line_of_doc
runs.experiment: LARGEST=LARGEST_SHAPE built=build_model usable=usable_device
runs.federating: HELD=HELD_FILE Place=FederationFolder read_secret=read_node_secret what_a_node_has=node_contents
runs.hostile: attacked=with_attack defended=with_robust_rule kept_by_the_algorithm=rule_of_algorithm
    poisoned=with_poison
runs.identity: ROUNDS=ROUNDS_KEY digest=identity_digest
runs.news: News=LogReader Tail=FileTail spoken=server_log_line spoken_by_node=node_log_line
runs.page: figure=html_figure grid=html_table number=format_number
runs.peering: PORT=FIRST_PEER_PORT chosen=choose_peer found=init_peers join=join_peers spoken=peer_log_line
    terms_of=peer_policy_of together=run_all_peers what_a_peer_has=peer_contents
runs.personal: Made=AdaptResult Personal=PersonalModel load=load_personal personalise=adapt_client
runs.pipeline: COLUMNS=TABLE_COLUMNS Plan=TrainingPlan Trained=TrainedStart
runs.prometheus: Figures=MetricsServer text=prometheus_text
runs.protection: PLACES=PLACE_SETTINGS Promise=PrivacyPromise Protection=PrivacyPlan terms_of=noise_terms
runs.recipes: complete=complete_settings
runs.report: report=run_report verdict=run_verdict
runs.roster: Roster=MemberRoster
runs.rounding: rounding=precision_error
runs.scheduling: Schedule=ScheduleRunner
runs.secured: LEAST=MIN_SUM_CLIENTS Secured=SecurePlan
runs.settings: Factors=RateFactors Part=Fraction Several=Architectures
runs.several: ALIKE=SAME_VERSIONS agreed=agree_over_ranks everywhere=open_on_ranks looks_at_each=needs_each_message
    refuse_unlike=require_same_manifest
runs.standing: Standing=FederationStatus State=MemberState ago=format_age
runs.start: begin=begin_run go_on=resume_run judge_again=evaluate_run plan=plan_run refuse_changed=refuse_changed_data
    start=start_run
runs.training: train_stage=run_train_stage unguarded=without_guard
runs.tuning: Tried=TriedRates best=best_trial scaled=scale_rates
runs.watching: Heard=RoundWatcher word=round_line
runs.written: nones=null_settings toml=to_toml
stored: loaded=find_loaded_class LARGEST=LARGEST_TENSOR blank=meta_tree_of fill=fill_template
    from_bytes=tensors_from_bytes
    made_whole=atomic_folder outline=tree_schema pack=pack_tree refuse_used=require_empty_folder
    settle_folder=fsync_folder to_bytes=trees_to_bytes unpack=unpack_tree writing=explain_write_errors
tasks.encoding.levels: one_hot=level_features
tasks.encoding.quantiles: LARGEST=LARGEST_SIZE SMALLEST=SMALLEST_SIZE
tasks.encoding.timestamps: FORMATS=DATE_FORMATS
tasks.partition: Parts=Partition
tasks.population: Rows=RowIndices
tasks.readers.arrays: described=describe_inputs flat=as_vector load=load_npz
tasks.readers.columns: fit=fit_features missing=is_missing
tasks.readers.download: CHUNK=DOWNLOAD_CHUNK PATIENCE=READ_TIMEOUT Progress=DownloadProgress
tasks.readers.dropping: drop_short=drop_small_clients
tasks.readers.folder: Found=ImageFolder
tasks.readers.images: FORMATS=IMAGE_FORMATS MANY=MAX_FOLDER_BYTES SUFFIXES=IMAGE_SUFFIXES is_image=is_image_file
    load=load_images look=inspect_images
tasks.readers.intact: AGAIN=PACK_AGAIN AT_ONCE=CHECK_AT_OPENING BLOCK=CHECKSUM_BLOCK Sums=Checksums
tasks.readers.known: HEART=HEART_URL
tasks.readers.leaf: SUFFIXES=LEAF_SUFFIXES load=load_leaf
tasks.readers.mnist: PARTS=MNIST_SPLITS
tasks.readers.packed: KINDS=ARRAY_KINDS LONGEST=MAX_NAME_BYTES pack=pack_population packing=packed_writer
tasks.readers.shakespeare: FILE=SHAKESPEARE_FILE
tasks.readers.sheet: Raw=RawColumns load=load_table
tasks.readers.summary: Summary=PopulationSummary
tasks.readers.table: ALIKE=MIN_NAME_SIMILARITY encode=encode_table
tasks.readers.targets: FEW=MAX_INTEGER_CLASSES decide=classes_or_numbers encode=encode_target
    encode_like=encode_target_like in_order=sorted_labels
tasks.readers.uci: HEART=HEART_COLUMNS
tasks.readers.wearables: FILE=WEARABLES_FILE
tasks.sampling: AroundSource=TaskSourceWrapper lengthened=pad_steps noised=with_noise stacked=stack_tasks
tasks.stragglers: Share=WorkShare Shortened=ShortenedTasks
tasks.types: Noisy=NoisyBatch
tasks.unread: Unread=RowReferences is_later=is_deferred reading_later=deferred_reads
temporary: NAME=TEMPORARY_NAME fresh=fresh_name
tree: alike=same_structure alone=unsqueeze0 beside=to_device_of dense=form_unformed map_parts=map_subtrees
    nesting=structure_of parts=subtrees same=is_equal
wire.frames: Assembler=FrameAssembler CHUNK=FRAME_CHUNK HEAD=FRAME_HEADER Head=FrameHeader LONGEST=MAX_FRAME
    Refused=FrameRefused seal=seal_frames
wire.payload: Form=TensorSchema TYPES=SAFETENSORS_TYPES forms=tensor_schemas pack=pack_tensors size=payload_size
    unpack=unpack_tensors
"""  # old module: old name=new name


@cache
def modules() -> dict[str, str]:
    """New module by old module, both without the package's name."""
    return dict(line.split() for line in MODULES.strip().splitlines())


@cache
def names() -> dict[str, dict[str, str]]:
    """New name by old name, for each new module."""
    by_module: dict[str, dict[str, str]] = {}
    for entry in NAMES.strip().replace("\n    ", " ").splitlines():
        module, pairs = entry.split(": ", 1)
        renames = dict(pair.split("=") for pair in pairs.split())
        by_module.setdefault(new_module(module), {}).update(renames)
    return by_module


@cache
def modules_with_old_names() -> frozenset[str]:
    """The modules with renamed names, and the packages that may export these."""
    parts = (module.split(".") for module in names())
    return frozenset(".".join(part[:length]) for part in parts for length in range(1, len(part) + 1))


def new_module(old: str) -> str:
    """The new name of a module: by its own entry in the table, else by its package's."""
    if old in modules():
        return modules()[old]
    package, _, name = old.rpartition(".")
    return f"{new_module(package)}.{name}" if package else old


def renamed(module: str, name: str) -> Any:
    """The value of an old name in a module, with a warning.

    Args:
        module: its new name, without the package's.
        name: the old name.
    Raises:
        AttributeError: the module never had that name.
    """
    new = names().get(module, {}).get(name) or _find_export(module, name)
    if new is None:
        raise AttributeError(f"module 'seedbed.{module}' has no attribute {name!r}")
    warnings.warn(f"{name} of seedbed.{module} is now called {new}", DeprecationWarning, stacklevel=3)
    return getattr(import_module(f"seedbed.{module}"), new)


def _find_export(package: str, name: str) -> str | None:
    """The new name of an old export of a package."""
    exports = import_module(f"seedbed.{package}")
    inside = (pairs for module, pairs in names().items() if module.startswith(f"{package}."))
    candidates = (pairs[name] for pairs in inside if name in pairs)
    return next((new for new in candidates if hasattr(exports, new)), None)


class _OldModule(Loader):
    """Loads a placeholder for a module that has moved."""

    def __init__(self, new: str):
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        target = import_module(f"seedbed.{self.new}")
        warnings.warn(f"{module.__name__} is now seedbed.{self.new}", DeprecationWarning, stacklevel=2)
        module.__path__ = []  # a package, so that imports of its modules reach the finder
        module.__getattr__ = lambda name: _either(target, self.new, name)  # type: ignore[method-assign]
        module.__dict__["__all__"] = [*public_names(target), *names().get(self.new, {})]  # for `import *`


def public_names(module: ModuleType) -> list[str]:
    return list(getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")]))


def _either(target: ModuleType, module: str, name: str) -> Any:
    return getattr(target, name) if hasattr(target, name) else renamed(module, name)


class _WithOldNames(Loader):
    """Loads a module that has not moved, and adds its old names."""

    def __init__(self, inner: Any, module: str):
        self.inner, self.module = inner, module

    def __getattr__(self, name: str) -> Any:  # sources and resources
        return getattr(self.inner, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.inner.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self.inner.exec_module(module)
        answer_to_old_names(module, self.module)


class OldNames(MetaPathFinder):
    """Finds modules of this package by their old names, and adds old names to modules that have not moved."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("seedbed."):
            return None
        spec, old = PathFinder.find_spec(fullname, path), fullname.removeprefix("seedbed.")
        if spec is not None:
            if spec.loader is not None and old in modules_with_old_names():
                spec.loader = _WithOldNames(spec.loader, old)
            return spec
        new = new_module(old)
        return None if new == old else ModuleSpec(fullname, _OldModule(new), is_package=True)


def renamed_export(name: str) -> Any:
    """The value of an old name at the package's top level; see `renamed`."""
    package = sys.modules["seedbed"]
    for module, pairs in names().items():
        if pairs.get(name) in package.__all__:
            return renamed(module, name)
    raise AttributeError(f"module 'seedbed' has no attribute {name!r}")


def install() -> None:
    """Enable old imports; the package calls this once, after loading its modules."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldNames())
    for module in modules_with_old_names():
        existing = sys.modules.get(f"seedbed.{module}")
        if existing is not None:
            answer_to_old_names(existing, module)


def answer_to_old_names(module: ModuleType, name: str) -> None:
    """Add the old names to a module that has not moved."""
    module.__dict__.setdefault("__getattr__", lambda old: renamed(name, old))
