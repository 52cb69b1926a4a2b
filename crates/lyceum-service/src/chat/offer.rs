//! What holds an answer to a form: the tools that a request offers, and the grammar made of them or of the form that it
//! asks for.

use super::{Calls, Constraint, Request, refused};
use crate::{Language, ServiceError};
use lyceum_engine::{BitMask, TokenMask};
use lyceum_language::grammar::{Grammar, Matcher};
use lyceum_language::reasoning::ReasoningFormat;
use lyceum_language::template::ChatTemplate;
use lyceum_language::tokenizer::Tokenizer;
use lyceum_language::tools::constrain::tool_grammar;
use lyceum_language::tools::{
    Tool, ToolChoice, ToolFormat, ToolParser, callable, openai_tool_choice, openai_tools,
};
use std::sync::Arc;

/// The tools of a request that may be called.
pub(super) struct Offer {
    tools: Vec<Tool>,
    choice: ToolChoice,
    format: ToolFormat,
}

impl Offer {
    pub(super) fn read(request: &Request, template: &ChatTemplate) -> Result<Self, ServiceError> {
        let tools = openai_tools(&request.tools).map_err(|error| refused("tools", error))?;
        let choice = openai_tool_choice(request.tool_choice.as_ref(), &tools);
        let choice = choice.map_err(|error| refused("tool_choice", error))?;
        let tools = callable(request.tool_choice.as_ref(), tools);
        let tools = tools.map_err(|error| refused("tool_choice", error))?;
        if !tools.is_empty() && choice != ToolChoice::None {
            if !template.mentions("tools") {
                let message = "this model's chat template tells it of no tools: leave them out";
                return Err(ServiceError::invalid("tools", "unsupported_parameter", message));
            }
            if let Some(form) = &request.form {
                let message = "not together with tools that may be called: send one of them";
                return Err(ServiceError::invalid(form.field, "unsupported_parameter", message));
            }
        }
        Ok(Offer { tools, choice, format: ToolFormat::of(template.source()) })
    }

    pub(super) fn is_callable(&self) -> bool {
        !self.tools.is_empty() && self.choice != ToolChoice::None
    }

    /// Tokens that begin a call, where the vocabulary has them.
    pub(super) fn markers(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        match self.is_callable() {
            true => self.format.markers().iter().filter_map(|text| tokenizer.token_id(text)).collect(),
            false => Vec::new(),
        }
    }

    pub(super) fn parser(&self, seed: u64, calls: Calls) -> Option<ToolParser> {
        self.is_callable().then(|| ToolParser::new(self.format, &self.tools, calls, seed))
    }
}

/// The form that answers are held to, compiled off the server's threads.
pub(super) async fn grammar(
    language: &Arc<Language>,
    request: &Request,
    offer: &Offer,
    reasoning: Option<ReasoningFormat>,
) -> Result<Option<Grammar>, ServiceError> {
    let tools =
        tool_grammar(&language.words.tokenizer, offer.format, &offer.tools, &offer.choice, request.calls);
    let tools = tools.map_err(|error| refused("tools", error))?;
    let (param, constraint) = match (tools, &request.form) {
        (Some(rules), _) => ("tools", Constraint::Tools(rules)),
        (None, Some(form)) => (form.field, form.constraint.clone()),
        (None, None) => return Ok(None),
    };
    let language = language.clone();
    let work = move || {
        let width = language.model.shape.output.width();
        language.words.grammars(width)?.compile(&constraint, reasoning)
    };
    let made = tokio::task::spawn_blocking(work).await;
    let made = made.map_err(|error| ServiceError::internal("compiling a form broke off", error))?;
    made.map(Some).map_err(|error| refused(param, error))
}

/// The tokens that a form allows next.
pub(super) struct Form(pub(super) Matcher);

impl TokenMask for Form {
    fn allowed(&mut self, out: &mut BitMask) -> Result<(), String> {
        self.0.allowed(out.words_mut()).map_err(|error| error.to_string())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.0.accept(token).map_err(|error| error.to_string())
    }
}
