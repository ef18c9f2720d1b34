//! What a model cannot do is dropped, put otherwise or refused by rule, before the request is written.

use postern_proto::Failure;
use postern_proto::completion::v1::{ContentPart, Message, Parameters, Role, content_part, tool_choice};
use postern_proto::instance::v1::Capabilities;
use postern_proto::model::v1::{ChatPrompt, Generation, generation};

/// Makes a request one that the model can answer; what was dropped or put otherwise.
///
/// # Errors
/// REQUEST_INVALID for what would change the answer's meaning.
pub fn fit(known: &Capabilities, generation: &mut Generation) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    if let Some(generation::Prompt::Chat(chat)) = &mut generation.prompt {
        refuse(known, chat)?;
        merge_instructions(&mut chat.messages);
        // A turn in which nothing was said and nothing called is nothing to any server.
        let says = |message: &Message| !message.content.is_empty() || !message.tool_calls.is_empty();
        chat.messages.retain(|message| message.role != Role::Assistant as i32 || says(message));
        if known.system_role == Some(false) {
            fold_instructions(&mut chat.messages, &mut warnings);
        }
    }
    if known.sampling == Some(false)
        && let Some(parameters) = &mut generation.parameters
    {
        drop_sampling(parameters, &mut warnings);
    }
    let refused = known.refused_parameters.as_ref().map(|refused| refused.names.as_slice()).unwrap_or_default();
    if let Some(parameters) = &mut generation.parameters {
        refused.iter().for_each(|name| drop_one(name, parameters, &mut warnings));
    }
    if let Some(generation::Prompt::Chat(chat)) = &mut generation.prompt
        && refused.iter().any(|name| name == "tool_choice")
        && demands_a_call(chat)
    {
        chat.tool_choice = None;
        warnings.push("`tool_choice` was dropped: the model calls what it likes, or nothing".to_owned());
    }
    Ok(warnings)
}

fn refuse(known: &Capabilities, chat: &ChatPrompt) -> Result<(), Failure> {
    let can = |said: Option<bool>| said != Some(false);
    if !chat.tools.is_empty() && !can(known.tools) {
        return Err(Failure::field("tools", "the model calls no tools"));
    }
    if chat.response_format.is_some() && !can(known.structured_output) {
        return Err(Failure::field("response_format", "the model cannot be held to a form of its answer"));
    }
    let mut parts = chat.messages.iter().flat_map(|message| &message.content);
    if parts.any(|part| matches!(part.part, Some(content_part::Part::Image(_)))) && !can(known.images) {
        return Err(Failure::field("messages.content.image", "the model sees no images"));
    }
    Ok(())
}

/// Makes one message of the instructions that begin a conversation: some chat templates take one.
fn merge_instructions(messages: &mut Vec<Message>) {
    let texts = |message: &Message| {
        message.role == Role::System as i32
            && message.content.iter().all(|part| matches!(part.part, Some(content_part::Part::Text(_))))
    };
    let leading = messages.iter().take_while(|message| texts(message)).count();
    if leading < 2 {
        return;
    }
    let rest = messages.split_off(leading);
    let mut content: Vec<ContentPart> = Vec::new();
    for part in messages.drain(..).flat_map(|message| message.content) {
        match (content.last_mut(), part.part) {
            // A mark is of all that is before it, and stays where it is.
            (
                Some(ContentPart { part: Some(content_part::Part::Text(before)), cache: cache @ None }),
                Some(content_part::Part::Text(text)),
            ) => {
                before.push_str("\n\n");
                before.push_str(&text);
                *cache = part.cache;
            }
            (_, said) => content.push(ContentPart { part: said, cache: part.cache }),
        }
    }
    messages.push(Message { role: Role::System as i32, content, ..Message::default() });
    messages.extend(rest);
}

/// Puts instructions before the first question, where there is no place of their own for them.
fn fold_instructions(messages: &mut Vec<Message>, warnings: &mut Vec<String>) {
    let is_system = |message: &Message| message.role == Role::System as i32;
    if !messages.iter().any(is_system) {
        return;
    }
    let (instructions, rest): (Vec<_>, Vec<_>) = std::mem::take(messages).into_iter().partition(is_system);
    *messages = rest;
    let mut content: Vec<ContentPart> = instructions.into_iter().flat_map(|message| message.content).collect();
    match messages.iter_mut().find(|message| message.role == Role::User as i32) {
        Some(question) => {
            content.push(ContentPart {
                part: Some(content_part::Part::Text("\n\n".to_owned())),
                ..ContentPart::default()
            });
            content.append(&mut question.content);
            question.content = joined(content);
        }
        None => {
            messages.insert(0, Message { role: Role::User as i32, content: joined(content), ..Message::default() });
        }
    }
    warnings.push("the model has no system role: the instructions were put before the first question".to_owned());
}

/// Texts that follow each other, as one.
fn joined(parts: Vec<ContentPart>) -> Vec<ContentPart> {
    let mut joined: Vec<ContentPart> = Vec::new();
    for part in parts {
        match (joined.last_mut(), part.part) {
            (
                Some(ContentPart { part: Some(content_part::Part::Text(before)), cache: cache @ None }),
                Some(content_part::Part::Text(text)),
            ) => {
                before.push_str(&text);
                *cache = part.cache;
            }
            (_, said) => joined.push(ContentPart { part: said, cache: part.cache }),
        }
    }
    joined
}

fn drop_sampling(parameters: &mut Parameters, warnings: &mut Vec<String>) {
    let Parameters { temperature, top_p, top_k, presence_penalty, frequency_penalty, top_logprobs, .. } = parameters;
    let mut dropped = |name: &str, was_set: bool| {
        if was_set {
            warnings.push(format!("`{name}` was dropped: the model samples as it likes"));
        }
    };
    dropped("top_logprobs", top_logprobs.take().is_some());
    // What is the default anyway is nobody's loss.
    dropped("temperature", temperature.take().is_some_and(|value| (value - 1.0).abs() > f64::EPSILON));
    dropped("top_p", top_p.take().is_some_and(|value| (value - 1.0).abs() > f64::EPSILON));
    dropped("top_k", top_k.take().is_some());
    dropped("presence_penalty", presence_penalty.take().is_some_and(|value| value != 0.0));
    dropped("frequency_penalty", frequency_penalty.take().is_some_and(|value| value != 0.0));
}

fn demands_a_call(chat: &ChatPrompt) -> bool {
    match chat.tool_choice.as_ref().and_then(|choice| choice.choice.as_ref()) {
        Some(tool_choice::Choice::Name(_)) => true,
        Some(tool_choice::Choice::Mode(mode)) => *mode == tool_choice::Mode::Required as i32,
        None => false,
    }
}

/// Drops the parameter of this name. A penalty of nothing, which is the default, is nobody's loss.
fn drop_one(name: &str, parameters: &mut Parameters, warnings: &mut Vec<String>) {
    let penalty = |given: Option<f64>| given.is_some_and(|given| given != 0.0);
    let was_set = match name {
        "temperature" => parameters.temperature.take().is_some(),
        "top_p" => parameters.top_p.take().is_some(),
        "top_k" => parameters.top_k.take().is_some(),
        "stop" => !std::mem::take(&mut parameters.stop).is_empty(),
        "seed" => parameters.seed.take().is_some(),
        "presence_penalty" => penalty(parameters.presence_penalty.take()),
        "frequency_penalty" => penalty(parameters.frequency_penalty.take()),
        "top_logprobs" => parameters.top_logprobs.take().is_some(),
        "reasoning_effort" => parameters.reasoning_effort.take().is_some(),
        "parallel_tool_calls" => parameters.parallel_tool_calls.take().is_some(),
        "user" => parameters.user.take().is_some(),
        "max_tokens" => parameters.max_tokens.take().is_some(),
        _ => false,
    };
    if was_set {
        warnings.push(format!("`{name}` was dropped: the model refuses it"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_proto::completion::v1::{Image, ResponseFormat, Tool, ToolChoice};
    use postern_proto::instance::v1::ParameterNames;

    fn text(text: &str) -> ContentPart {
        ContentPart { part: Some(content_part::Part::Text(text.to_owned())), cache: None }
    }

    fn message(role: Role, said: &str) -> Message {
        Message { role: role as i32, content: vec![text(said)], ..Message::default() }
    }

    fn generation(chat: ChatPrompt, parameters: Parameters) -> Generation {
        Generation { prompt: Some(generation::Prompt::Chat(chat)), parameters: Some(parameters), ..Default::default() }
    }

    fn messages(generation: &Generation) -> &[Message] {
        match &generation.prompt {
            Some(generation::Prompt::Chat(chat)) => &chat.messages,
            _ => panic!("a chat"),
        }
    }

    #[test]
    fn instructions_go_before_the_first_question_where_they_have_no_place() {
        let known = Capabilities { system_role: Some(false), ..Default::default() };
        let said =
            vec![message(Role::System, "Be brief."), message(Role::User, "Hi"), message(Role::Assistant, "Yes?")];
        let mut asked = generation(ChatPrompt { messages: said, ..Default::default() }, Parameters::default());
        assert_eq!(fit(&known, &mut asked).unwrap().len(), 1);
        assert_eq!(messages(&asked), [message(Role::User, "Be brief.\n\nHi"), message(Role::Assistant, "Yes?")]);
        let said = vec![message(Role::System, "Be brief.")];
        let mut alone = generation(ChatPrompt { messages: said, ..Default::default() }, Parameters::default());
        fit(&known, &mut alone).unwrap();
        assert_eq!(messages(&alone), [message(Role::User, "Be brief.")]);
        let before = asked.clone();
        assert!(fit(&known, &mut asked).unwrap().is_empty());
        assert_eq!(asked, before);
    }

    #[test]
    fn instructions_in_a_row_are_one_message() {
        let said = vec![message(Role::System, "a"), message(Role::System, "b"), message(Role::User, "Hi")];
        let mut asked = generation(ChatPrompt { messages: said, ..Default::default() }, Parameters::default());
        fit(&Capabilities::default(), &mut asked).unwrap();
        assert_eq!(messages(&asked), [message(Role::System, "a\n\nb"), message(Role::User, "Hi")]);
    }

    #[test]
    fn a_model_that_samples_as_it_likes_is_not_told_how() {
        let known = Capabilities { sampling: Some(false), ..Default::default() };
        let parameters =
            Parameters { temperature: Some(0.2), top_p: Some(1.0), max_tokens: Some(3), ..Default::default() };
        let mut asked = generation(ChatPrompt::default(), parameters);
        assert_eq!(fit(&known, &mut asked).unwrap(), ["`temperature` was dropped: the model samples as it likes"]);
        assert_eq!(asked.parameters, Some(Parameters { max_tokens: Some(3), ..Default::default() }));
    }

    #[test]
    fn what_a_model_refuses_by_name_is_dropped() {
        let names = ["stop", "presence_penalty", "frequency_penalty", "reasoning_effort", "unheard_of"];
        let names = ParameterNames { names: names.map(str::to_owned).to_vec() };
        let known = Capabilities { refused_parameters: Some(names), ..Default::default() };
        let parameters = Parameters {
            stop: vec!["END".to_owned()],
            presence_penalty: Some(0.0),
            frequency_penalty: Some(0.5),
            temperature: Some(0.2),
            ..Default::default()
        };
        let mut asked = generation(ChatPrompt::default(), parameters);
        let warnings = fit(&known, &mut asked).unwrap();
        let expected =
            ["`stop` was dropped: the model refuses it", "`frequency_penalty` was dropped: the model refuses it"];
        assert_eq!(warnings, expected);
        assert_eq!(asked.parameters, Some(Parameters { temperature: Some(0.2), ..Default::default() }));
    }

    #[test]
    fn a_demanded_call_is_a_free_choice_where_the_model_takes_no_demand() {
        let known = |names: &[&str]| Capabilities {
            refused_parameters: Some(ParameterNames { names: names.iter().map(|name| (*name).to_owned()).collect() }),
            ..Default::default()
        };
        let choice = |choice| Some(tool_choice::Choice::Mode(choice as i32));
        for (choice, refused, dropped) in [
            (choice(tool_choice::Mode::Required), true, true),
            (Some(tool_choice::Choice::Name("f".to_owned())), true, true),
            (choice(tool_choice::Mode::Auto), true, false),
            (choice(tool_choice::Mode::None), true, false),
            (choice(tool_choice::Mode::Required), false, false),
        ] {
            let chat = ChatPrompt { tool_choice: Some(ToolChoice { choice }), ..Default::default() };
            let mut asked = generation(chat, Parameters::default());
            let names: &[&str] = if refused { &["tool_choice"] } else { &[] };
            assert_eq!(fit(&known(names), &mut asked).unwrap().len(), usize::from(dropped));
            let Some(generation::Prompt::Chat(chat)) = asked.prompt else { panic!("a chat") };
            assert_eq!(chat.tool_choice.is_none(), dropped);
        }
    }

    #[test]
    fn what_would_change_the_answers_meaning_is_refused() {
        let no = Some(false);
        let known = Capabilities { tools: no, structured_output: no, images: no, ..Default::default() };
        let image = ContentPart { part: Some(content_part::Part::Image(Image::default())), cache: None };
        let seen = Message { role: Role::User as i32, content: vec![image], ..Message::default() };
        for (chat, field) in [
            (ChatPrompt { tools: vec![Tool::default()], ..Default::default() }, "tools"),
            (ChatPrompt { response_format: Some(ResponseFormat::default()), ..Default::default() }, "response_format"),
            (ChatPrompt { messages: vec![seen], ..Default::default() }, "messages.content.image"),
        ] {
            let mut asked = generation(chat, Parameters::default());
            assert_eq!(fit(&known, &mut asked).unwrap_err().fields[0].0, field);
            assert!(fit(&Capabilities::default(), &mut asked).is_ok());
        }
    }
}
