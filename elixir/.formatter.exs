[
  inputs: ["{mix,.formatter,.credo,.dialyzer_ignore}.exs", "{lib,test,examples,bench}/**/*.{ex,exs}"],
  line_length: 120
]
