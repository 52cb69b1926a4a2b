//! How families write calls.

/// A family's way to write calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, or a list of such objects between the tags: Hermes,
    /// Qwen 2.5 and 3, SmolLM2 and 3.
    Hermes,
    /// The answer is one object `{"name": …, "parameters": {…}}`, or several with `;` between, with or without
    /// `<|python_tag|>` before: Llama 3.
    Llama3,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]`, or `[TOOL_CALLS]name[ARGS]{…}` of newer ones: Mistral.
    Mistral,
    /// The answer is such an object or a list of them, alone or in a fenced block: models that were told so in words.
    Json,
    /// The answer is a list of Python's calls, `[name(key=value, …), …]`: Llama 3.2 and 4 with templates that say so.
    Pythonic,
    /// A fenced block of Python's calls, ` ```tool_code `: Gemma with templates that say so.
    ToolCode,
}

impl ToolFormat {
    /// The format of a model, from what its chat template writes.
    pub fn of(template: &str) -> Self {
        if template.contains("<tool_call>") {
            ToolFormat::Hermes
        } else if template.contains("[TOOL_CALLS]") {
            ToolFormat::Mistral
        } else if template.contains("```tool_code") {
            ToolFormat::ToolCode
        } else if template.contains("[func_name1(") {
            ToolFormat::Pythonic
        } else if template.contains("<|python_tag|>") || template.contains("<|start_header_id|>") {
            ToolFormat::Llama3
        } else {
            ToolFormat::Json
        }
    }

    /// What begins a call and may be a special token, which decoding must then show.
    pub fn markers(self) -> &'static [&'static str] {
        match self {
            ToolFormat::Hermes => &["<tool_call>", "</tool_call>"],
            ToolFormat::Llama3 => &["<|python_tag|>"],
            ToolFormat::Mistral => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
            ToolFormat::Json | ToolFormat::Pythonic | ToolFormat::ToolCode => &[],
        }
    }
}
