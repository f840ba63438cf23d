defmodule DSPexFleet.Gateway.LearningTest do
  # Jobs run one after the other on a worker that executes code.
  use DSPexFleet.GatewayCase, async: true

  alias DSPexFleet.{Datasets, Evaluations, Job, Jobs, Optimizations, Predictions, Proxy, Recorders}

  @metric "answer_exact_match"

  setup do
    ctx = context!()
    Variables.set!(ctx, :warmth, 0.5)
    name = fresh("learned")
    Programs.register!(ctx, name, %{module: "Predict", signature: "question -> answer"})
    {:ok, ctx: ctx, program: name}
  end

  # Of eight examples the last two have another answer than the LM gives.
  defp dataset!(ctx, name) do
    examples =
      for n <- 1..8 do
        %{question: "#{name} #{n}", answer: if(n <= 6, do: "answer of #{name} #{n}", else: "something else")}
      end

    Datasets.add!(ctx, name, examples, inputs: [:question])
  end

  test "datasets have versions, which are listed, read, compared and removed", %{ctx: ctx} do
    name = fresh("golden")
    first = %{question: "Why?", answer: "So."}

    assert %{name: ^name, version: 1, examples: 1, inputs: ["question"]} =
             Datasets.add!(ctx, name, [first], inputs: [:question])

    assert Datasets.add!(ctx, name, [[question: "Why?", answer: "So."]], inputs: [:question]).version == 1

    many = [first | for(n <- 1..150, do: %{question: "#{n}?", answer: "#{n}"})]
    assert %{version: 2, digest: digest} = Datasets.add!(ctx, name, many, inputs: ["question"], source: "a test")
    assert %{version: 2, source: "a test", digest: ^digest, at: %DateTime{}} = Datasets.get!(ctx, name)
    assert Enum.map(Datasets.versions!(ctx, name), & &1.version) == [1, 2]
    assert [%{name: ^name, version: 2}] = Datasets.list!(ctx, prefix: name)

    assert [%{"question" => "Why?", "answer" => "So."} | _more] = examples = Datasets.examples!(ctx, name)
    assert length(examples) == 151
    assert length(Datasets.examples!(ctx, name, limit: 120)) == 120
    assert %{unchanged: 1, diff: %{}} = Datasets.diff!(ctx, name <> ":1", name <> ":2")

    assert [%{version: 1}] = Datasets.remove!(ctx, name <> ":1")
    assert [%{version: 2}] = Datasets.remove!(ctx, name)
    assert {:error, %Error{reason: :dataset_not_found}} = Datasets.get(ctx, name)
  end

  test "examples that can't be are refused, and nothing is stored", %{ctx: ctx} do
    name = fresh("golden")
    assert {:error, %Error{reason: :invalid_value}} = Datasets.add(ctx, name, %{question: "?"}, inputs: [:question])
    assert {:error, %Error{reason: :invalid_value}} = Datasets.add(ctx, name, ["?"], inputs: [:question])
    assert {:error, %Error{reason: :invalid_option}} = Datasets.add(ctx, name, [%{question: "?"}], [])
    assert {:error, %Error{reason: :dataset}} = Datasets.add(ctx, name, [%{question: "?"}], inputs: [:query])
    assert Datasets.list!(ctx, prefix: name) == []
  end

  test "recorded predictions become a dataset", %{ctx: ctx, program: program} do
    assert %{program: ^program, share: 1.0, errors: true} = Recorders.set!(ctx, program, share: 1, expires_s: 3_600)
    assert Enum.any?(Recorders.list!(ctx), &(&1.recorder.program == program))
    name = fresh("hard")

    # Workers learn of a recorder a moment after it was set.
    assert eventually(fn ->
             DSPexFleet.predict!(ctx, program, %{question: fresh("recorded")})
             Enum.any?(Recorders.list!(ctx), &(&1.recorder.program == program and &1.records > 0))
           end)

    searched = fresh("searched")
    handle = DSPexFleet.submit!(ctx, program, %{question: searched})
    DSPexFleet.await!(handle)
    Scores.score!(handle, :helpful, 0.25)

    assert [%{id: id} = recorded | _older] =
             ctx |> Predictions.search!(program: program, page_size: 1) |> Enum.to_list()

    assert id == handle.id
    assert {recorded.inputs["question"], recorded.outputs["answer"]} == {searched, "answer of " <> searched}
    assert {recorded.session, recorded.version, recorded.error} == {Session.id!(ctx), 1, nil}
    assert {recorded.token, recorded.scores} == {Variables.snapshot!(ctx).token, %{"helpful" => 0.25}}

    for options <- [
          [id: id],
          [scores: ["helpful<0.5"]],
          [session: recorded.session, token: recorded.token, since_s: 600]
        ] do
      assert id in (ctx |> Predictions.search!([program: program, outcome: :succeeded] ++ options) |> Enum.map(& &1.id))
    end

    assert ctx |> Predictions.search!(program: program, outcome: :failed) |> Enum.to_list() == []
    assert [{:error, %Error{}}] = ctx |> Predictions.search(program: program, scores: ["helpful"]) |> Enum.to_list()

    assert %{name: ^name, examples: count} = Datasets.add_from_predictions!(ctx, program, name, since_s: 600)
    assert count > 0
    assert [%{"question" => question, "answer" => answer} | _more] = Datasets.examples!(ctx, name)
    assert answer == "answer of " <> question
    assert %{examples: 1} = Datasets.add_from_predictions!(ctx, program, name, scores: ["helpful<0.5"])
    assert {:error, %Error{}} = Datasets.add_from_predictions(ctx, program, name, scores: ["helpful<0.1"])

    assert Recorders.remove(ctx, program, erase: true) == :ok
    refute Enum.any?(Recorders.list!(ctx), &(&1.recorder.program == program))
  end

  test "an evaluation is a job, whose evaluations are read and compared", %{ctx: ctx, program: program} do
    name = fresh("golden")
    dataset!(ctx, name)
    thoughtful = %{module: "ChainOfThought", signature: "question -> answer"}
    assert Programs.register!(ctx, program, thoughtful).version == 2
    arms = for version <- 1..2, do: "#{program}:#{version}"

    job = Evaluations.start!(ctx, program, name, @metric, arms: arms, request_id: name, author: "ann")
    assert %Job{kind: :evaluation, program: ^program, arguments: %{"dataset" => _}, created_at: %DateTime{}} = job
    assert Evaluations.start!(ctx, program, name, @metric, arms: arms, request_id: name, author: "ann").id == job.id

    states = ctx |> Jobs.stream(job.id) |> Enum.map(fn {:ok, state} -> state end)
    assert %Job{state: :succeeded, result: %{"arms" => evaluated}, progress: %{"total" => 16}} = List.last(states)
    assert states |> Enum.drop(-1) |> Enum.all?(&(not Job.ended?(&1)))
    assert Jobs.await!(ctx, job.id) == List.last(states)
    assert Jobs.get!(ctx, job.id).state == :succeeded
    assert Enum.any?(Jobs.list!(ctx, kind: :evaluation), &(&1.id == job.id))
    refute Enum.any?(Jobs.list!(ctx, kind: :optimization), &(&1.id == job.id))

    [first, second] = Enum.map(arms, &evaluated[&1]["id"])
    assert %{score: 75.0, count: 8, errors: 0, dataset: ^name, usage: %{calls: 8}} = Evaluations.get!(ctx, first)
    assert Enum.any?(Evaluations.list!(ctx), &(&1.id == second))
    assert [%{"score" => true, "task_id" => _id} | _more] = examples = Evaluations.examples!(ctx, first)
    assert length(examples) == 8
    assert %{difference: +0.0, verdict: "no clear difference", paired: 8} = Evaluations.compare!(ctx, first, second)
    assert {:error, %Error{reason: :evaluation_not_found}} = Evaluations.get(ctx, "nothing")
  end

  test "an optimizer's job registers what it finds, as a candidate", %{ctx: ctx, program: program} do
    name = fresh("train")
    dataset!(ctx, name)
    options = %{max_bootstrapped_demos: 1, max_labeled_demos: 1}

    job =
      Optimizations.start!(ctx, program, name, @metric,
        optimizer: "BootstrapFewShot",
        options: options,
        max_predictions: 100
      )

    assert %Job{kind: :optimization, state: state} = job
    assert state in [:queued, :running]
    assert %Job{state: :succeeded, result: %{}} = Jobs.await!(ctx, job.id, 100_000)

    assert %{version: 2, spec: %{"state" => %{"self" => %{"demos" => [_demo]}}}} =
             Programs.get!(ctx, program <> "@candidate")

    assert {:error, %Error{reason: :optimization}} =
             Optimizations.start(ctx, program, name, @metric, optimizer: "NoSuchOptimizer")

    assert {:error, %Error{reason: :invalid_option}} = Optimizations.start(ctx, program, name, @metric, [])
  end

  test "a job is followed over breaks of its connection, until it is cancelled", %{ctx: ctx, program: program} do
    name = fresh("golden")
    dataset!(ctx, name)
    proxy = start_supervised!({Proxy, target()})
    broken = context!(target: Proxy.address(proxy), backoff: {20, 200})
    job = Evaluations.start!(ctx, program, name, @metric, in_flight: 1)
    test = self()

    following =
      Task.async(fn ->
        broken |> Jobs.stream(job.id) |> Stream.each(&send(test, {:state, &1})) |> Enum.to_list() |> List.last()
      end)

    assert_receive {:state, {:ok, %Job{}}}, 20_000

    for _break <- 1..3 do
      Proxy.cut(proxy)
      assert eventually(fn -> Proxy.open_connections(proxy) > 0 end)
    end

    assert %Job{} = Jobs.cancel!(ctx, job.id)
    assert {:ok, %Job{state: ended}} = Task.await(following, 60_000)
    # It may have been faster.
    assert ended in [:cancelled, :succeeded]
    if ended == :cancelled, do: assert({:error, %Error{reason: :cancelled}} = Jobs.await(ctx, job.id))
  end

  test "a job that isn't there, and one that takes longer than it is waited for", %{ctx: ctx, program: program} do
    assert {:error, %Error{reason: :job_not_found}} = Jobs.get(ctx, "nothing")
    assert {:error, %Error{reason: :job_not_found}} = Jobs.await(ctx, "nothing")
    assert [{:error, %Error{reason: :invalid_value}}] = ctx |> Jobs.stream(7) |> Enum.to_list()

    name = fresh("golden")
    dataset!(ctx, name)
    job = Evaluations.start!(ctx, program, name, @metric)
    assert {:error, %Error{reason: :took_too_long, fields: [_id]}} = Jobs.await(ctx, job.id, 1)
    unknown = Evaluations.start!(ctx, program, name, "no_such_metric")
    assert {:error, %Error{reason: :metric}} = Jobs.await(ctx, unknown.id)
  end
end
