[
  import_deps: [:grpc, :protobuf],
  inputs: ["{mix,.formatter}.exs", "{lib,test,examples}/**/*.{ex,exs}"],
  line_length: 120
]
