//! `evoring plot`.

use super::{Context, resolve};
use crate::args::{PictureKind, PlotArgs, PlotSource};
use crate::artifacts::{picture_data, picture_data_of_folder};
use crate::exit::{Exit, Failure};
use crate::follow::unexpected;
use crate::output::{print, print_json};
use crate::picture;
use evoring_protocol::client::{ClientReply, ClientRequest};
use std::path::Path;

/// Draws one picture.
pub(super) async fn plot(context: &Context, arguments: PlotArgs) -> Result<Exit, Failure> {
    let kind = arguments
        .what
        .unwrap_or_else(|| kind_by_name(&arguments.output));
    let data = match arguments.source {
        PlotSource::Job(job) => {
            let mut client = context.client()?;
            let job = resolve(&mut client, job).await?;
            let view = match client.ask(&ClientRequest::Show { job }).await? {
                ClientReply::Job(view) => view,
                other => return Err(unexpected("Show", &other)),
            };
            let data = picture_data(&mut client, &view).await?;
            client.close().await;
            data
        }
        PlotSource::Folder(folder) => picture_data_of_folder(&folder)?,
    };
    let svg = picture::draw(&data, kind)?;
    std::fs::write(&arguments.output, svg)
        .map_err(|error| Failure::local(arguments.output.display(), error))?;
    if context.style.json {
        print_json(&serde_json::json!({ "file": arguments.output }))?;
    } else {
        print(&format!("{}\n", arguments.output.display()))?;
    }
    Ok(Exit::Ok)
}

/// `front.svg` asks for the front.
fn kind_by_name(file: &Path) -> PictureKind {
    let name = file
        .file_stem()
        .map(|stem| stem.to_string_lossy().to_lowercase())
        .unwrap_or_default();
    match () {
        () if name.contains("front") => PictureKind::Front,
        () if name.contains("filter") => PictureKind::Filters,
        () => PictureKind::Fitness,
    }
}
